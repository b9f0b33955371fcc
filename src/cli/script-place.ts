/**
 * The places of Xen's block scripts and of qemu as libxl starts it: vbdkit's own are linked under
 * their names, and Debian's are moved aside with dpkg-divert, so that upgrades land beside and not
 * over them.
 */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  readlinkSync,
  realpathSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../base/failure.ts';
import { helperPath, standInPath } from '../daemon/scripts.ts';

/** Xen's own scripts whose place the helper takes. */
const diverted = ['block', 'block-tap'] as const;
const own = 'block-vbd';

export interface PlaceOptions {
  /** Where libxl looks for scripts. */
  readonly scriptDir: string;
  /** What the links of scripts lead to. */
  readonly helper: string;
  /** The program that libxl starts to serve qdisk, and what its link leads to. */
  readonly deviceModel: string;
  readonly standIn: string;
  /** Takes the device model's place as well. Giving back gives back both. */
  readonly withDeviceModel: boolean;
  /** dpkg's database, where it is not the system's. */
  readonly adminDir: string | undefined;
}

export interface Change {
  /** One sentence, as said before or after. */
  readonly says: string;
  readonly run: () => void;
}

/** The places on a host as Debian has it. */
export function placesByDefault(): PlaceOptions {
  return {
    scriptDir: '/etc/xen/scripts',
    helper: realpathSync(helperPath),
    deviceModel: '/usr/libexec/xen-qemu-system-i386',
    standIn: realpathSync(standInPath),
    withDeviceModel: false,
    adminDir: undefined,
  };
}

/** A path and what vbdkit links there. */
interface Place {
  readonly path: string;
  readonly target: string;
}

function scriptPlace({ scriptDir, helper }: PlaceOptions, name: string): Place {
  return { path: join(scriptDir, name), target: helper };
}

function modelPlace({ deviceModel, standIn }: PlaceOptions): Place {
  return { path: deviceModel, target: standIn };
}

/**
 * What is still to be done for vbdkit's own to be in those places; empty when they are.
 * @throws Failure exists when something else is in the way
 */
export function changesToSetUp(options: PlaceOptions): Change[] {
  checkHost(options);
  const steps = diverted.flatMap((name) => {
    const place = scriptPlace(options, name);
    return isTaken(place) ? take(options, place) : [];
  });
  const model = options.withDeviceModel ? take(options, modelPlace(options)) : [];
  return [...link(scriptPlace(options, own)), ...steps, ...model];
}

/**
 * What is still to be done for Xen's own to be in their places again. What others have put there, or
 * diverted, is left as it is.
 * @throws Failure not-found | unsupported
 */
export function changesToUndo(options: PlaceOptions): Change[] {
  checkHost(options);
  const places = diverted.map((name) => scriptPlace(options, name));
  const taken = [...places, modelPlace(options)].filter((place) => kindOf(place) !== 'another');
  const steps = taken.flatMap((place) => [
    ...unlink(place),
    ...(isMovedAside(options, place.path) ? [restore(options, place.path)] : []),
  ]);
  return [...steps, ...unlink(scriptPlace(options, own))];
}

function checkHost({ scriptDir }: PlaceOptions): void {
  if (!existsSync(scriptDir)) {
    const advice = 'install xen-utils-common first, or name the folder with --script-dir';
    throw new Failure('not-found', `there is no ${scriptDir}, where libxl looks — ${advice}`);
  }
}

/** Something is there, or was before it was moved aside. */
function isTaken({ path }: Place): boolean {
  return [path, asideOf(path)].some(
    (each) => lstatSync(each, { throwIfNoEntry: false }) !== undefined,
  );
}

/** What is at a place: nothing, vbdkit's link, or something of others. */
function kindOf({ path, target }: Place): 'nothing' | 'ours' | 'another' {
  const there = lstatSync(path, { throwIfNoEntry: false });
  if (there === undefined) return 'nothing';
  return there.isSymbolicLink() && readlinkSync(path) === target ? 'ours' : 'another';
}

/** Moves what is there aside, unless that is done, and links vbdkit's own. */
function take(options: PlaceOptions, place: Place): Change[] {
  if (kindOf(place) !== 'another' || isDiverted(options, place.path)) return link(place);
  return [divert(options, place.path), linkTo(place)];
}

function link(place: Place): Change[] {
  const kind = kindOf(place);
  if (kind === 'ours') return [];
  if (kind === 'nothing') return [linkTo(place)];
  const { path } = place;
  throw new Failure('exists', `${path} is not vbdkit's link — move it away first`, { path });
}

function linkTo({ path, target }: Place): Change {
  return { says: `link ${path} to ${target}`, run: () => symlinkSync(target, path) };
}

function unlink(place: Place): Change[] {
  if (kindOf(place) !== 'ours') return [];
  const { path } = place;
  return [{ says: `remove the link ${path}`, run: () => unlinkSync(path) }];
}

function asideOf(path: string): string {
  return `${path}.xen`;
}

function divert(options: PlaceOptions, path: string): Change {
  const aside = asideOf(path);
  return {
    says: `move ${path} to ${aside}, by a diversion of dpkg`,
    run: () => dpkgDivert(options, '--local', '--divert', aside, '--rename', '--add', path),
  };
}

function restore(options: PlaceOptions, path: string): Change {
  return {
    says: `move ${asideOf(path)} back to ${path}, and end the diversion`,
    run: () => dpkgDivert(options, ...ownerOf(options, path), '--rename', '--remove', path),
  };
}

/** Whose the diversion is: this host's, or the package's that vbdkit was installed from. */
function ownerOf(options: PlaceOptions, path: string): string[] {
  const owner = dpkgDivert(options, '--listpackage', path).trim();
  return owner === 'LOCAL' ? ['--local'] : ['--package', owner];
}

function isMovedAside(options: PlaceOptions, path: string): boolean {
  return dpkgDivert(options, '--truename', path).trim() === asideOf(path);
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
    return execFileSync('dpkg-divert', [...database, '--quiet', ...args], {
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
