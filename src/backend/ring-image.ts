/** The image of a disk on its ring: held against others, opened in the tap, listened to, closed. */
import { Failure } from '../base/failure.ts';
import { type BackendNodes, diskName } from '../disk/backend-nodes.ts';
import type { Member } from '../disk/identity.ts';
import { diskPaths } from '../disk/libxl-nodes.ts';
import { judge } from '../disk/sharing.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { imageFormats, type ImageFormat } from '../image/formats.ts';
import {
  type DiskRecord,
  type DiskWorld,
  logFields,
  noteFault,
  noteHolder,
} from './disk-record.ts';
import { imageOfVbd, lookAtTarget } from './look.ts';
import type { FoundImage, OpenedImage, Tap } from './tap.ts';
import { twinsOf } from './twins.ts';
import type { VmBook } from './vm-book.ts';

/** The world of a disk that the tap serves. */
export type RingWorld = DiskWorld & { readonly tap: Tap };

/** Looks at the image, holds it against others, has the tap open it, and holds all that it opened. */
export async function openRingImage(
  world: RingWorld,
  record: DiskRecord,
  vms: VmBook,
): Promise<void> {
  const name = diskName(record.key);
  const beganMs = performance.now();
  // It may have counted as another's until now.
  world.holdings.remove(record.path);
  try {
    const found = await findPlace(world, record, vms);
    const known = await findOpened(world, record);
    const image = await openedImage(world, record, vms, found?.place, known);
    if (found !== undefined) holdOpened(world, record, found.member, image.members, vms);
    await follow(world, record, image, known);
    // What an earlier tap had open already is no attach.
    if (known === undefined && !wasOffered(record)) record.holdMs = performance.now() - beganMs;
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    if (wasOffered(record)) {
      if (isAway(thrown)) throw thrown;
      const known = await world.tap.find(name);
      if (known?.connected === true) {
        const sentence = `its guest goes on, though ${thrown.message}`;
        world.log('warning', sentence, logFields(record));
        // Its files may have other names by now: they are still its guest's.
        noteHolder(world, record, known.image.members);
        return follow(world, record, known.image, known);
      }
    } else world.holdings.remove(record.path);
    // What the tap keeps all the same is asked for later.
    if (!isAway(thrown))
      noteFault(world, record, await world.tap.close(name).catch(() => undefined));
    throw thrown;
  }
}

/** What the tap has open for the disk already, or opens now. */
async function openedImage(
  world: RingWorld,
  record: DiskRecord,
  vms: VmBook,
  place: ImagePlace | undefined,
  known: FoundImage | undefined,
): Promise<OpenedImage> {
  const { tap, whenFull } = world;
  const name = diskName(record.key);
  if (known !== undefined) return isDrive(record) ? tap.change(name, place) : known.image;
  const [twin] = await twinsOf(world, record, vms);
  return tap.open(name, place, {
    writable: nodesOf(record).mode !== 'r',
    whenFull: (place && whenFull?.(place.path)) ?? 'pause',
    beside: twin && diskName(twin),
  });
}

/** Puts into the drive what its nodes name by now. What cannot be had leaves it empty, and is told. */
export async function changeMedium(
  world: RingWorld,
  record: DiskRecord,
  vms: VmBook,
): Promise<void> {
  const { tap } = world;
  const { params } = nodesOf(record);
  const { ring } = record;
  if (ring === undefined) throw new Error(`${record.path} is not open`);
  const name = diskName(record.key);
  world.holdings.remove(record.path);
  try {
    const found = await findPlace(world, record, vms);
    ring.image = await tap.change(name, found?.place);
    ring.refused = undefined;
    if (found !== undefined) holdOpened(world, record, found.member, ring.image.members, vms);
    world.log('info', `has ${found?.place.path ?? 'nothing'} in its drive`, logFields(record));
  } catch (thrown) {
    if (!(thrown instanceof Failure) || isAway(thrown)) throw thrown;
    world.holdings.remove(record.path);
    world.log('error', `its drive is empty: ${thrown.message}`, logFields(record));
    ring.refused = thrown;
    ring.image = await tap.change(name, undefined);
  }
  ring.params = params;
}

/** Media of a drive come and go. */
function isDrive({ ringFacts }: DiskRecord): boolean {
  return ringFacts?.frontend.cdrom === true;
}

function nodesOf({ nodes, path }: DiskRecord): BackendNodes {
  if (nodes === undefined) throw new Error(`${path} has no nodes`);
  return nodes;
}

interface FoundPlace {
  readonly member: Member;
  readonly place: ImagePlace;
}

/** What the nodes name, held; undefined for an empty drive. @throws Failure */
async function findPlace(
  world: DiskWorld,
  record: DiskRecord,
  vms: VmBook,
): Promise<FoundPlace | undefined> {
  const nodes = nodesOf(record);
  if (isDrive(record) && /^([a-z0-9]+:)?$/.test(nodes.params)) return undefined;
  const wanted = record.key.kind === 'vbd' ? imageOfVbd(nodes) : imageOfParams(nodes.params);
  const member = await lookAndHold(world, record, vms, wanted);
  return { member, place: { path: member.path, format: wanted.format } };
}

/** The tap has nothing of the disk any more, and so have we. */
export async function forget(world: DiskWorld, record: DiskRecord): Promise<void> {
  const { ring } = record;
  if (ring !== undefined) {
    const what = ring.image.members[0]?.path ?? 'an empty drive';
    world.log('info', `released ${what}`, logFields(record));
  }
  record.published = false;
  record.outcome = undefined;
  record.closingSeen = false;
  world.holdings.remove(record.path);
  await unfollow(record);
}

/** From now on the guest is listened to. @param known what the tap had of it before */
export async function follow(
  world: DiskWorld,
  record: DiskRecord,
  image: OpenedImage,
  known: Pick<FoundImage, 'connected' | 'paused'> | undefined,
): Promise<void> {
  const { frontend } = pathsOf(record);
  const again = (): void => world.callAgain(record.key);
  const watch = await world.store.observe(`${frontend}/state`, again);
  // A tap that has just opened it says nothing of it yet, and keeps to what its predecessor was told.
  const isHeld = world.tap?.statistics(diskName(record.key))?.held === true;
  const { connected = false, paused = isHeld ? 'admin' : null } = known ?? {};
  record.ring = { image, connected, paused, params: record.nodes?.params, watch };
  // By an earlier vbdd.
  if (wasOffered(record)) {
    record.published = true;
    record.outcome ??= { refusal: undefined };
  }
  record.tapDoubted = false;
}

/** Listens to the guest no more. */
export async function unfollow(record: DiskRecord): Promise<void> {
  const { ring } = record;
  record.ring = undefined;
  await ring?.watch[Symbol.asyncDispose]();
}

/**
 * True of a disk whose image some vbdd had opened and offered to the guest: it is held before new
 * ones are, and waits for a tap that is away. One that is new is told.
 */
export function wasOffered({ nodes }: DiskRecord): boolean {
  return nodes?.hotplugStatus === 'connected';
}

/** Whether the tap cannot be asked now; it is asked again when it is back. */
export function isAway({ kind }: Failure): boolean {
  return kind === 'unavailable' || kind === 'timeout';
}

/**
 * Whether the tap's failure to answer is its end: then it has nothing open. One without descriptors
 * hangs up, and a vbdd that has just started knows it no better.
 */
export function hasEnded({ isThere }: Tap, { facts }: Failure): boolean {
  const { errno } = facts;
  return !isThere && (errno === 'ENOENT' || errno === 'ECONNREFUSED');
}

/** Where the disk's nodes are, from a backend in this domain. */
export function pathsOf({ key }: DiskRecord): ReturnType<typeof diskPaths> {
  const { domid, devid } = key;
  return diskPaths({ domid, devid, backendDomid: 0, kind: 'vbd3' });
}

/** What an earlier vbdd had the tap open for this disk: its guest goes on. */
async function findOpened(world: RingWorld, record: DiskRecord): ReturnType<Tap['find']> {
  const name = diskName(record.key);
  const known = await world.tap.find(name);
  if (known === undefined || wasOffered(record)) return known;
  // It is of a disk that had this one's name before.
  noteFault(world, record, await world.tap.close(name));
  return undefined;
}

/** Between looking at the file and holding it nothing is awaited. */
async function lookAndHold(
  world: DiskWorld,
  record: DiskRecord,
  vms: VmBook,
  place: ImagePlace,
): Promise<Member> {
  for (;;) {
    const look = lookAtTarget(world, record, vms, () => place);
    using _opened = look.opened;
    if (look.unknownDomids.length > 0) {
      await vms.learn(look.unknownDomids);
      continue;
    }
    if (look.target instanceof Failure) throw look.target;
    if (look.conflict !== undefined) throw look.conflict;
    noteHolder(world, record, [look.target.member]);
    return look.target.member;
  }
}

/**
 * What the tap has opened is what is held. Of parents nothing was known before: they are read, and
 * nobody may write them meanwhile.
 * @throws Failure in-use; gone
 */
export function holdOpened(
  world: DiskWorld,
  record: DiskRecord,
  own: Member,
  opened: readonly Member[],
  vms: VmBook,
): void {
  if (!opened.some(({ identity }) => identity === own.identity)) {
    throw new Failure('gone', `${own.path} became another file meanwhile — attach it again`);
  }
  const members = opened.filter(({ identity }) => identity !== own.identity);
  const vm = vms.of(record.key.domid);
  for (const member of members) {
    const rivals = world.holdings.rivals(member).filter(({ key }) => key !== record.path);
    const asked = { members: [member], vm };
    const conflict = judge(asked, rivals, (domid) => vms.of(domid) ?? { domid });
    if (conflict !== undefined) throw conflict;
  }
  noteHolder(world, record, [own, ...members]);
}

/** libxl's names of formats in the params of disks that are not blkback's. */
const libxlFormats: Readonly<Record<string, ImageFormat>> = {
  aio: 'raw',
  vhd: 'vhd',
  qcow: 'qcow1',
  qcow2: 'qcow2',
};

/**
 * The image that a disk's params name: libxl's `FORMAT:TARGET`, whose target may name a format of
 * ours before the path.
 * @throws Failure invalid | unsupported
 */
export function imageOfParams(params: BackendNodes['params']): ImagePlace {
  const [, prefix = '', target = ''] = /^([a-z0-9]+):(.*)$/s.exec(params) ?? [];
  const [, own, path] = /^([a-z0-9]+):(\/.*)$/s.exec(target) ?? [];
  const format = imageFormats.find((each) => each === own);
  if (format !== undefined && path !== undefined) return { path, format };
  const libxls = libxlFormats[prefix];
  if (libxls !== undefined) return { path: target, format: libxls };
  const advice = `name one of ${imageFormats.join(', ')}`;
  throw new Failure('unsupported', `${params} is of no format that vbdkit serves — ${advice}`);
}
