/**
 * Moving a program of Xen's aside, and back: by a diversion of dpkg where it is dpkg's, so that upgrades
 * land beside and not over vbdkit's link; elsewhere by a rename, and a record of it that an upgrade is
 * recognised by.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { Failure } from '../base/failure.ts';

export interface Change {
  /** One sentence, as said before or after. */
  readonly says: string;
  readonly run: () => void;
}

export interface Aside {
  /**
   * Frees a path that others have something at.
   * @throws Failure exists when it was moved aside once already, to where it would have to go
   */
  moveAway(path: string): Change[];
  /**
   * Ends what `moveAway` began.
   * @param isFree nothing is at the path, once vbdkit's own link is gone
   */
  putBack(path: string, isFree: boolean): Change[];
}

/** Where it goes. */
export function asideOf(path: string): string {
  return `${path}.xen`;
}

/**
 * By dpkg what is in one of its packages, or diverted; by the record all else, and what is noted there
 * already: a host may have got its dpkg since.
 * @param file the paths that were moved, a line each
 * @param adminDir dpkg's database, where it is not the system's
 */
export function asideOnHost(file: string, adminDir?: string): Aside {
  const [byRecord, byDpkg] = [asideByRecord(file), asideByDpkg(adminDir)];
  const asideFor = (path: string): Aside => {
    const isNoted = recorded(file).includes(path);
    return !isNoted && hasDpkg() && isKnownToDpkg(adminDir, path) ? byDpkg : byRecord;
  };
  return {
    moveAway: (path) => asideFor(path).moveAway(path),
    putBack: (path, isFree) => asideFor(path).putBack(path, isFree),
  };
}

function hasDpkg(): boolean {
  const folders = (process.env['PATH'] ?? '').split(':');
  return folders.some((folder) => existsSync(join(folder, 'dpkg-divert')));
}

function isKnownToDpkg(adminDir: string | undefined, path: string): boolean {
  const args = [...databaseFlags(adminDir), '--search', path];
  const { status, stderr } = spawnSync('dpkg-query', args, { encoding: 'utf8' });
  if (status === 0 || status === 1) return status === 0;
  throw new Failure('io', `dpkg-query: ${stderr.trim()}`, { path });
}

function databaseFlags(adminDir: string | undefined): string[] {
  return adminDir === undefined ? [] : ['--admindir', adminDir];
}

/** @param adminDir dpkg's database, where it is not the system's */
function asideByDpkg(adminDir?: string): Aside {
  const divert = (...args: string[]): string => dpkgDivert(adminDir, args);
  const placeOf = (path: string): string => divert('--truename', path).trim();
  // Whose the diversion is: this host's, or the package's that vbdkit was installed from.
  const ownerOf = (path: string): string[] => {
    const owner = divert('--listpackage', path).trim();
    return owner === 'LOCAL' ? ['--local'] : ['--package', owner];
  };
  return {
    moveAway(path) {
      const [aside, place] = [asideOf(path), placeOf(path)];
      if (place === aside) throw inTheWay(path, 'is not vbdkit’s link — move it away first');
      if (place !== path) {
        throw inTheWay(path, `is diverted to ${place} already — end that diversion first`);
      }
      return [
        {
          says: `move ${path} to ${aside}, by a diversion of dpkg`,
          run: () => divert('--local', '--divert', aside, '--rename', '--add', path),
        },
      ];
    },
    putBack(path, isFree) {
      if (!isFree || placeOf(path) !== asideOf(path)) return [];
      return [
        {
          says: `move ${asideOf(path)} back to ${path}, and end the diversion`,
          run: () => divert(...ownerOf(path), '--rename', '--remove', path),
        },
      ];
    },
  };
}

function inTheWay(path: string, what: string): Failure {
  return new Failure('exists', `${path} ${what}`, { path });
}

function dpkgDivert(adminDir: string | undefined, args: readonly string[]): string {
  try {
    return execFileSync('dpkg-divert', [...databaseFlags(adminDir), '--quiet', ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  } catch (thrown) {
    const said = thrown instanceof Error && 'stderr' in thrown ? String(thrown.stderr).trim() : '';
    throw new Failure('io', `dpkg-divert: ${said || String(thrown)}`, {}, thrown);
  }
}

/**
 * An upgrade of Xen puts its new program over vbdkit's link; the one that was moved aside is then an
 * older one that the upgrade would have replaced.
 * @param file the paths that were moved, a line each
 */
function asideByRecord(file: string): Aside {
  return {
    moveAway(path) {
      const aside = asideOf(path);
      const isOlder = existsSync(aside);
      if (isOlder && !recorded(file).includes(path)) {
        throw inTheWay(aside, 'is there, and vbdkit did not move it there — move it away first');
      }
      // Another vbdkit's would be put over Xen's own.
      if (isOlder && lstatSync(path).isSymbolicLink()) {
        throw inTheWay(path, 'is not vbdkit’s link — move it away first');
      }
      return [
        {
          says: `move ${path} to ${aside}${isOlder ? ', over an older one' : ''}`,
          run: () => {
            // Written first: what is noted and was not moved harms nobody.
            record(file, [...recorded(file).filter((each) => each !== path), path]);
            renameSync(path, aside);
          },
        },
      ];
    },
    putBack(path, isFree) {
      if (!recorded(file).includes(path)) return [];
      const aside = asideOf(path);
      const forget = (): void =>
        record(
          file,
          recorded(file).filter((each) => each !== path),
        );
      if (!existsSync(aside)) return [{ says: `forget that ${path} was moved`, run: forget }];
      const [says, act] = isFree
        ? [`move ${aside} back to ${path}`, () => renameSync(aside, path)]
        : [`remove ${aside}, which is older than ${path}`, () => unlinkSync(aside)];
      return [
        {
          says,
          run: () => {
            act();
            forget();
          },
        },
      ];
    },
  };
}

function recorded(file: string): string[] {
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
}

/** Is on disk before anything is moved by it. */
function record(file: string, paths: readonly string[]): void {
  if (paths.length === 0) return rmSync(file, { force: true });
  mkdirSync(dirname(file), { recursive: true });
  const text = paths.map((path) => `${path}\n`).join('');
  writeFileSync(`${file}.new`, text, { flush: true });
  renameSync(`${file}.new`, file);
}
