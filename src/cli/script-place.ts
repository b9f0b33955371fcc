/**
 * The place of Xen's block scripts: vbdkit's helper is linked under their names, and Debian's own
 * are moved aside with dpkg-divert, so that upgrades of Xen land beside and not over it.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, readlinkSync, symlinkSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../base/failure.ts';

/** Xen's own scripts whose place the helper takes. */
const diverted = ['block', 'block-tap'] as const;
const own = 'block-vbd';

export interface PlaceOptions {
  /** Where libxl looks for scripts. */
  readonly scriptDir: string;
  /** What the links lead to. */
  readonly helper: string;
  /** dpkg's database, where it is not the system's. */
  readonly adminDir: string | undefined;
}

export interface Change {
  /** One sentence, as said before or after. */
  readonly says: string;
  readonly run: () => void;
}

/**
 * What is still to be done for the helper to be in the scripts' place; empty when it is.
 * @throws Failure exists when something else is in the way
 */
export function changesToSetUp(options: PlaceOptions): Change[] {
  checkHost(options);
  const steps = diverted.flatMap((name) => {
    const path = join(options.scriptDir, name);
    if (isDiverted(options, path)) return link(options, name);
    if (kindOf(options, name) !== 'another') return [];
    return [divert(options, path), ...linkTo(options, name)];
  });
  return [...link(options, own), ...steps];
}

/**
 * What is still to be done for Xen's own scripts to be in their place again.
 * @throws Failure exists when something else is in the way
 */
export function changesToUndo(options: PlaceOptions): Change[] {
  checkHost(options);
  const steps = diverted.flatMap((name) => {
    const path = join(options.scriptDir, name);
    return [
      ...unlink(options, name),
      ...(isDiverted(options, path) ? [restore(options, path)] : []),
    ];
  });
  return [...steps, ...unlink(options, own)];
}

function checkHost({ scriptDir }: PlaceOptions): void {
  if (!existsSync(scriptDir)) {
    const advice = 'install xen-utils-common first, or name the folder with --script-dir';
    throw new Failure('not-found', `there is no ${scriptDir}, where libxl looks — ${advice}`);
  }
}

/** What is at a name: nothing, a link to the helper, or something of others. */
function kindOf({ scriptDir, helper }: PlaceOptions, name: string): 'nothing' | 'ours' | 'another' {
  const path = join(scriptDir, name);
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there === undefined) return 'nothing';
  return there.isSymbolicLink() && readlinkSync(path) === helper ? 'ours' : 'another';
}

function link(options: PlaceOptions, name: string): Change[] {
  const kind = kindOf(options, name);
  if (kind === 'ours') return [];
  if (kind === 'nothing') return linkTo(options, name);
  const path = join(options.scriptDir, name);
  throw new Failure('exists', `${path} is not vbdkit's link — move it away first`, { path });
}

function linkTo({ scriptDir, helper }: PlaceOptions, name: string): Change[] {
  const path = join(scriptDir, name);
  return [{ says: `link ${path} to ${helper}`, run: () => symlinkSync(helper, path) }];
}

function unlink(options: PlaceOptions, name: string): Change[] {
  if (kindOf(options, name) !== 'ours') return [];
  const path = join(options.scriptDir, name);
  return [{ says: `remove the link ${path}`, run: () => unlinkSync(path) }];
}

function asideOf(path: string): string {
  return `${path}.xen`;
}

function divert(options: PlaceOptions, path: string): Change {
  const aside = asideOf(path);
  return {
    says: `move ${path} to ${aside}, by a diversion of dpkg`,
    run: () => dpkgDivert(options, '--divert', aside, '--rename', '--add', path),
  };
}

function restore(options: PlaceOptions, path: string): Change {
  return {
    says: `move ${asideOf(path)} back to ${path}, and end the diversion`,
    run: () => dpkgDivert(options, '--rename', '--remove', path),
  };
}

/** @throws Failure exists when a package of others has diverted it */
function isDiverted(options: PlaceOptions, path: string): boolean {
  const place = dpkgDivert(options, '--truename', path).trim();
  if (place === path) return false;
  if (place === asideOf(path)) return true;
  throw new Failure('exists', `${path} is diverted to ${place} already — end that diversion first`);
}

function dpkgDivert({ adminDir }: PlaceOptions, ...args: string[]): string {
  const database = adminDir === undefined ? [] : ['--admindir', adminDir];
  const stdio = ['ignore', 'pipe', 'pipe'] as const;
  try {
    return execFileSync('dpkg-divert', [...database, '--local', '--quiet', ...args], {
      encoding: 'utf8',
      stdio: [...stdio],
    });
  } catch (thrown) {
    const said = thrown instanceof Error && 'stderr' in thrown ? String(thrown.stderr).trim() : '';
    if (said !== '') throw new Failure('io', `dpkg-divert: ${said}`, {}, thrown);
    const advice = 'set script=block-vbd in guests’ disks instead';
    throw new Failure('unsupported', `this host has no dpkg-divert — ${advice}`, {}, thrown);
  }
}
