/**
 * What should be so: who holds which file in which mode, and what must come of asking for one. The
 * rule is written down here anew, from what a user is promised; nothing of src/disk judges.
 */
import type { Failure } from '../../src/base/failure.ts';

export type Mode = 'r' | 'w' | 'w!';

/** The paths that disks are asked for, of files that the history's folder has. */
export const paths = ['a.img', 'a.hard', 'b.img', 'c.img', 'c.dev', 'ro.img', 'none.img'] as const;
export type Path = (typeof paths)[number];
export const slots = ['A', 'B', 'C', 'D'] as const;
/** A place for one guest after another. */
export type Slot = (typeof slots)[number];
export const vdevs = ['xvda', 'xvdb', 'xvdc'] as const;
export type Vdev = (typeof vdevs)[number];

export interface Wish {
  readonly vdev: Vdev;
  readonly path: Path;
  readonly mode: Mode;
}

export type Op =
  | {
      readonly op: 'create';
      readonly slot: Slot;
      readonly disks: readonly Wish[];
      /** The other half of that guest's migration, or its stub domain. */
      readonly beside?: { readonly slot: Slot; readonly as: 'half' | 'stub' } | undefined;
    }
  | { readonly op: 'attach'; readonly slot: Slot; readonly wish: Wish }
  | { readonly op: 'detach'; readonly slot: Slot; readonly vdev: Vdev; readonly force: boolean }
  | {
      readonly op: 'end';
      readonly slot: Slot;
      readonly how: 'shutdown' | 'power off' | 'destroy' | 'crash';
    }
  /** A disk that another script or a qemu gives to a guest of its own. */
  | { readonly op: 'foreign'; readonly kind: ForeignKind; readonly mode: 'r' | 'w' }
  | { readonly op: 'unforeign'; readonly kind: ForeignKind }
  /** A new file takes the name: the old one lives on in its hard link and its guests. */
  | { readonly op: 'replace' };

/** `qdisk` names b.img by path, `block-iscsi` has a device on a.img. */
export const foreignDomids = { qdisk: 90, 'block-iscsi': 91 } as const;
export type ForeignKind = keyof typeof foreignDomids;

export function isForeign(holder: Slot | ForeignKind): holder is ForeignKind {
  return holder in foreignDomids;
}

export interface Disk extends Wish {
  /** Who has it: a slot, or a foreign kind. */
  readonly holder: Slot | ForeignKind;
  /** The tag of the file that it is. */
  readonly tag: string;
  /** It was let go of, or its guest died: it may be held for a moment still. */
  leaving: boolean;
  /**
   * `new` until it was seen at work, then `sound`. A new one whose vbdd is killed is `shaky`: when
   * its backend had not opened the device yet, that is free again. Then the disk is `broken`, or
   * `unused` where the next vbdd gave it another device, but too late for the backend.
   */
  state: 'new' | 'sound' | 'shaky' | 'broken' | 'unused';
}

export interface ModelGuest {
  readonly vm: string;
  readonly stubOf: ModelGuest | undefined;
  alive: boolean;
  /**
   * vbdd's connection was lost about when it died. A store that was away is not believed when it
   * does not know a guest, so its toolstack must clean up, or the next vbdd.
   */
  forgotten: boolean;
}

export interface Model {
  vbdd: boolean;
  created: number;
  readonly tags: Map<Path, string>;
  readonly guests: Map<Slot, ModelGuest>;
  readonly disks: Map<string, Disk>;
}

export function newModel(): Model {
  const tags = new Map<Path, string>([
    ['a.img', 'a1'],
    ['a.hard', 'a1'],
    ['b.img', 'b'],
    ['c.img', 'c'],
    ['c.dev', 'c'],
    ['ro.img', 'ro'],
  ]);
  return { vbdd: true, created: 0, tags, guests: new Map(), disks: new Map() };
}

/** The disk that a wish is about. */
export function diskOf(model: Model, holder: Disk['holder'], wish: Wish): Disk {
  const tag = model.tags.get(wish.path) ?? 'none';
  return { ...wish, holder, tag, leaving: false, state: 'new' };
}

/** What a foreign hand takes. */
export function foreignDisk(model: Model, { kind, mode }: Op & { op: 'foreign' }): Disk {
  const path = kind === 'qdisk' ? 'b.img' : 'a.hard';
  return diskOf(model, kind, { vdev: 'xvda', path, mode });
}

/** Where the model has a disk. */
export function keyOf(holder: Disk['holder'], vdev: string): string {
  return `${holder} ${vdev}`;
}

/** A reader and a writer never, two writers never, unless who comes says that it shares. */
function mayJoin(asked: Mode, held: Mode): boolean {
  if (asked === 'w!') return true;
  return asked === 'r' && held !== 'w';
}

function sameVm(model: Model, one: Disk['holder'], other: Disk['holder']): boolean {
  if (one === other) return true;
  const [first, second] = [one, other].map((holder) => vmsOf(model, holder));
  return first?.some((vm) => second?.includes(vm)) === true;
}

/** A stub domain belongs to its guest's VM, too. */
function vmsOf(model: Model, holder: Disk['holder']): string[] {
  const guest = model.guests.get(holder as Slot);
  if (guest === undefined) return [];
  return guest.stubOf === undefined ? [guest.vm] : [guest.vm, guest.stubOf.vm];
}

/** Whether `asked` may not be had while `held` is. */
export function clashes(model: Model, asked: Disk, held: Disk): boolean {
  if (asked.tag !== held.tag || held.state === 'broken') return false;
  return !mayJoin(asked.mode, held.mode) && !sameVm(model, asked.holder, held.holder);
}

/** Why the wish cannot be met whoever asks: the sentence that must say so, or undefined. */
export function faultOf(model: Model, wish: Wish): RegExp | undefined {
  if (!model.tags.has(wish.path)) return /none\.img does not exist — /;
  if (wish.path === 'ro.img' && wish.mode !== 'r') return /ro\.img is read-only — /;
  return undefined;
}

/** Whether it is held beyond doubt. */
export function isSure({ leaving, state }: Disk): boolean {
  return !leaving && state !== 'shaky';
}

/** A disk that nobody uses any more, but whose nodes and device may stay until someone cleans up. */
export function mayLinger(model: Model, { holder, leaving }: Disk): boolean {
  return leaving && (!model.vbdd || model.guests.get(holder as Slot)?.forgotten === true);
}

export type Outcome = 'ok' | Failure;

/** Disks that were asked for in one go in a step, and what came of it: all of them, or a refusal. */
export interface Attempt {
  readonly disks: readonly Disk[];
  readonly outcome: Outcome;
  /** Its guest died in the same step: then anything may come of it but harm. */
  readonly orphan: boolean;
}

/**
 * Whether the outcomes of attempts made side by side are what they must be: whoever got a disk may
 * stand beside all who stayed, and whoever was refused was refused for a reason.
 * @param before the disks there were when the step began, those that leave in it marked so
 * @returns what is wrong, if anything
 */
export function judgeAttempts(
  model: Model,
  before: readonly Disk[],
  attempts: readonly Attempt[],
): string | undefined {
  for (const attempt of attempts) {
    const others = attempts.filter((other) => other !== attempt);
    const wrong =
      attempt.outcome === 'ok'
        ? wrongGrant(model, before, others, attempt)
        : wrongRefusal(model, before, others, attempt, attempt.outcome);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

function wrongGrant(
  model: Model,
  before: readonly Disk[],
  others: readonly Attempt[],
  { disks, orphan }: Attempt,
): string | undefined {
  // One whose guest died in the step may be gone before the other comes.
  const beside = orphan ? [] : others.filter((other) => !other.orphan);
  for (const disk of disks) {
    if (!model.vbdd) return `${show(disk)} was attached by nobody`;
    if (faultOf(model, disk)) return `${show(disk)} was attached, though it cannot be`;
    const stayed = before.find((held) => isSure(held) && clashes(model, disk, held));
    if (stayed !== undefined) return `${show(disk)} was attached beside ${show(stayed)}`;
    const granted = beside.flatMap((other) => (other.outcome === 'ok' ? other.disks : []));
    const rival = granted.find(
      (held) => isSure(held) && clashes(model, disk, held) && clashes(model, held, disk),
    );
    if (rival !== undefined) return `${show(disk)} and ${show(rival)} were both attached`;
  }
  return undefined;
}

/** A refusal needs one of the disks to be at fault, and says so of that one. */
function wrongRefusal(
  model: Model,
  before: readonly Disk[],
  others: readonly Attempt[],
  { disks, orphan }: Attempt,
  { kind, message }: Failure,
): string | undefined {
  if (orphan) return undefined;
  const isGood = disks.some((disk) => {
    if (before.some(({ holder, vdev }) => holder === disk.holder && vdev === disk.vdev)) {
      return kind === 'exists';
    }
    if (!model.vbdd) return kind === 'timeout';
    const fault = faultOf(model, disk);
    if (fault !== undefined) return fault.test(message);
    const rivals = [...before, ...others.flatMap((other) => other.disks)].filter((held) =>
      clashes(model, disk, held),
    );
    return kind === 'in-use' && blames(message, rivals);
  });
  return isGood ? undefined : `${disks.map(show).join(' and ')} refused (${kind}): ${message}`;
}

/** Whether the sentence names one of them; a guest that is just dying may have lost its name. */
function blames(message: string, rivals: readonly Disk[]): boolean {
  const [, slot] = /in use by guest ([A-D])\d+ \(domid/.exec(message) ?? [];
  const [, domid] = /in use by the guest with domid (\d+)/.exec(message) ?? [];
  const [, vdev] = / as (xvd[a-c]) for /.exec(message) ?? [];
  return rivals.some((rival) => {
    if (rival.vdev !== vdev) return false;
    if (slot !== undefined) return rival.holder === slot;
    if (isForeign(rival.holder)) return Number(domid) === foreignDomids[rival.holder];
    return domid !== undefined && rival.leaving;
  });
}

export function show({ holder, vdev, path, tag, mode }: Disk): string {
  return `${holder}'s ${vdev}=${path}(${tag}),${mode}`;
}
