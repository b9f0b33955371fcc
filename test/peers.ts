/** Programs and things of this machine that a test needs: there, or the test is skipped by name. */
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Where tools/peers.sh unpacks what is not installed into the system. */
export const peersDir =
  process.env['VBDKIT_PEERS'] ?? join(import.meta.dirname, '..', '.cache', 'peers');

/** Set by .ci/run: then whatever tools/peers.sh provides must be there, and nothing is skipped. */
const required = process.env['VBDKIT_REQUIRE_PEERS'] === '1';

/** The path of a program on PATH or in the usual sbin folders, or undefined. */
export function program(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return folders
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

export interface SkipOption {
  skip: string | false;
}

/** Options for a test that needs these programs: `test('…', needsProgram('losetup'), …)`. */
export function needsProgram(...names: string[]): SkipOption {
  const missing = names.filter((name) => program(name) === undefined);
  return needs(missing.length === 0, `no ${missing.join(', ')} — run tools/peers.sh`);
}

/** Options for a test that needs root and real loop devices. */
export function needsLoop(): SkipOption {
  const there = process.getuid?.() === 0 && existsSync('/dev/loop-control');
  return needs(there, 'needs root and /dev/loop-control');
}

/** Options for a test that needs root and FUSE, which no package gives a kernel that lacks it. */
export function needsFuse(): SkipOption {
  const there = process.getuid?.() === 0 && existsSync('/dev/fuse');
  return { skip: there ? false : 'needs root and /dev/fuse' };
}

/** Options for a test that needs a thing which CI must have. */
export function needs(there: boolean, otherwise: string): SkipOption {
  if (!there && required) throw new Error(`CI must have it: ${otherwise}`);
  return { skip: there ? false : otherwise };
}

/** The folder of images, specs and packets made by strangers; not part of a checkout. */
export const corpusDir = join(import.meta.dirname, '..', '..', 'shared', 'corpus');

/** Options for a test over the strangers' corpus, which no checkout has by itself. */
export function needsCorpus(): SkipOption {
  return { skip: existsSync(corpusDir) ? false : 'no ../shared/corpus beside this checkout' };
}
