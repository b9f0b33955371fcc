/**
 * The places of Xen's block scripts and of qemu as libxl starts it: vbdkit's own are linked under
 * their names, once Xen's are moved aside.
 */
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
import { type Aside, asideOf, asideOnHost, type Change } from './aside.ts';

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
  /** How Xen's own are moved aside. */
  readonly aside: Aside;
}

/** What was moved aside and is not dpkg's. */
export const RECORD_PATH = '/var/lib/vbdkit/moved';

/** The places where Xen's toolstack looks, on a host as most are. */
export function placesByDefault(): PlaceOptions {
  return {
    scriptDir: '/etc/xen/scripts',
    helper: realpathSync(helperPath),
    deviceModel: '/usr/libexec/xen-qemu-system-i386',
    standIn: realpathSync(standInPath),
    withDeviceModel: false,
    aside: asideOnHost(RECORD_PATH),
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
 * moved, is left as it is.
 * @throws Failure not-found; exists where a program would be left without any
 */
export function changesToUndo(options: PlaceOptions): Change[] {
  checkHost(options);
  const places = diverted.map((name) => scriptPlace(options, name));
  const steps = [...places, modelPlace(options)].flatMap((place) => giveBack(options, place));
  return [...steps, ...unlink(scriptPlace(options, own))];
}

function giveBack({ aside }: PlaceOptions, place: Place): Change[] {
  const { path } = place;
  const back = aside.putBack(path, kindOf(place) !== 'another');
  if (back.length === 0 && kindOf(place) === 'ours' && existsSync(asideOf(path))) {
    const sentence = `nothing says that vbdkit moved ${path} to ${asideOf(path)}`;
    throw new Failure('exists', `${sentence} — move it back yourself, over vbdkit's link`, {
      path,
    });
  }
  return [...unlink(place), ...back];
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
  if (kindOf(place) !== 'another') return link(place);
  return [...options.aside.moveAway(place.path), linkTo(place)];
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
