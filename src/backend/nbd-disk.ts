/**
 * Disks that blkback serves from images: the tap serves the image by NBD, and an nbd device of this
 * host's kernel, connected to it, is what blkback is given.
 */
import { Failure, sentenceOf } from '../base/failure.ts';
import { type BackendNodes, diskName } from '../disk/backend-nodes.ts';
import { deviceIdentity, type Member } from '../disk/identity.ts';
import type { HeldFacts, TargetFacts } from '../disk/plan.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { chooseExport } from '../nbd/client.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import {
  type DiskRecord,
  type DiskWorld,
  type Held,
  logFields,
  type NbdHold,
  noteFault,
  noteHolder,
  reportFault,
} from './disk-record.ts';
import { imageOfVbd } from './look.ts';
import type { NbdDevice, NbdKernel, NbdUse } from './nbd-kernel.ts';
import { holdOpened } from './ring-image.ts';
import type { OpenedImage, Tap } from './tap.ts';
import { twinsOf } from './twins.ts';
import { deviceMember, openTarget } from './target.ts';
import type { VmBook } from './vm-book.ts';

/**
 * Has the tap open the image that was looked at, and connects a device to it. The image is held
 * against others before anything is awaited.
 * @throws Failure, with nothing left of it
 */
export async function holdImage(
  world: DiskWorld,
  record: DiskRecord,
  target: TargetFacts,
  vms: VmBook,
): Promise<Held> {
  const { member, format } = target;
  noteHolder(world, record, [member]);
  const { tap, nbd } = servers(world);
  const use = useOf(record, member.mode);
  try {
    // What the tap has by this name is of a disk that had it before.
    if ((await tap.find(use.name)) !== undefined) {
      noteFault(world, record, await tap.close(use.name));
    }
    const place = { path: member.path, format };
    const [twin] = await twinsOf(world, record, vms);
    const beside = twin && diskName(twin);
    const opened = await tap.open(use.name, place, { writable: !use.readOnly, beside });
    holdOpened(world, record, member, opened.members, vms);
    using served = await chooseExport(await tap.export(use.name));
    const device = await nbd.connect(served, use);
    const own = onDevice(member, device);
    holdOpened(world, record, own, opened.members, vms);
    return heldBy(device, own, place, { link: 'up', depth: opened.depth });
  } catch (thrown) {
    await tap.close(use.name).catch(() => {});
    world.holdings.remove(record.path);
    throw thrown;
  }
}

/**
 * Takes over the device that an earlier vbdd gave to the disk. Its parents are held once the tap
 * says which they are, and the device is opened once the tap serves it.
 * @throws Failure gone
 */
export async function adoptImage(
  world: DiskWorld,
  record: DiskRecord,
  nodes: BackendNodes,
  number: DeviceNumber,
): Promise<Held> {
  const place = imageOfVbd(nodes);
  const member = memberOfImage(world, record, nodes, place, number);
  noteHolder(world, record, [member]);
  try {
    const { nbd } = servers(world);
    const device = await nbd.adopt(number, useOf(record, nodes.mode));
    return heldBy(device, member, place, { link: 'down', depth: undefined });
  } catch (thrown) {
    world.holdings.remove(record.path);
    throw thrown;
  }
}

/** Has the tap serve the device again, unless it does. @throws Failure of the tap, or of the image */
export async function reconnectImage(
  world: DiskWorld,
  record: DiskRecord,
  vms: VmBook,
): Promise<void> {
  const { facts, nbd: hold } = heldImage(record);
  const { tap } = servers(world);
  const { mode } = facts.member;
  const { name, readOnly } = useOf(record, mode);
  const known = await tap.find(name);
  const opened = known?.image ?? (await tap.open(name, hold.image, { writable: !readOnly }));
  holdAgain(world, record, facts, opened, vms);
  if ((known?.nbdClients ?? 0) === 0) {
    using served = await chooseExport(await tap.export(name));
    await hold.device.reconnect(served);
  }
  hold.link = 'up';
  hold.depth = opened.depth;
  record.reported = undefined;
  world.log('info', `${hold.device.devicePath} is served`, logFields(record));
  holdServed(world, record);
}

/**
 * Opens the disk's device where the tap serves it, unless it is open: one that could not be opened is
 * tried again with each look at the disk. Nobody waits for it: should the tap end in the middle of
 * it, the next one has to be connected.
 */
export function holdServed(world: DiskWorld, record: DiskRecord): void {
  const { held } = record;
  if (held?.nbd?.link !== 'up') return;
  void held.nbd.device.hold().catch((thrown: unknown) => {
    reportFault(world, record, `its guest goes on, though ${sentenceOf(thrown)}`);
  });
}

/** What is under way on its device fails. */
export async function severImage(record: DiskRecord): Promise<void> {
  const { nbd: hold } = heldImage(record);
  hold.link = 'severed';
  await hold.device.sever();
}

/** The tap lets go of the image; what one that cannot be asked still has open is found as a stray later. */
export async function closeImage(world: DiskWorld, record: DiskRecord): Promise<void> {
  const closing = world.tap?.close(diskName(record.key));
  const fault = await closing?.catch((thrown: unknown) => {
    if (!(thrown instanceof Failure)) throw thrown;
    return undefined;
  });
  noteFault(world, record, fault);
}

/** Makes the image, its device and so the guest's disk as large as asked. @returns its size in bytes */
export async function resizeImage(
  world: DiskWorld,
  record: DiskRecord,
  sizeBytes: number,
): Promise<number> {
  const { device } = heldImage(record).nbd;
  if (sizeBytes < device.sizeBytes) {
    const advice = 'a disk can only grow while it is attached';
    throw new Failure('invalid', `the disk has ${device.sizeBytes} bytes — ${advice}`);
  }
  const { sectors } = await servers(world).tap.resize(diskName(record.key), sizeBytes);
  await device.resize(sectors * 512);
  return sectors * 512;
}

function servers({ tap, nbd }: DiskWorld): { tap: Tap; nbd: NbdKernel } {
  if (tap !== undefined && nbd !== undefined) return { tap, nbd };
  throw new Failure('unsupported', 'vbdd was told of no vbd-tap — name its socket as tap');
}

function useOf(record: DiskRecord, mode: Member['mode']): NbdUse {
  return { name: diskName(record.key), readOnly: mode === 'r' };
}

function heldImage({ path, held }: DiskRecord): { facts: HeldFacts; nbd: NbdHold } {
  if (held?.nbd === undefined) throw new Error(`${path} is not served from an image`);
  return { facts: held.facts, nbd: held.nbd };
}

/** Who holds the image holds the device, too: nobody else in this host may have it. */
function onDevice(member: Member, { device }: Pick<NbdDevice, 'device'>): Member {
  return { ...member, stack: [...member.stack, deviceIdentity(device)] };
}

function heldBy(
  device: NbdDevice,
  member: Member,
  image: ImagePlace,
  now: Pick<NbdHold, 'link' | 'depth'>,
): Held {
  const { devicePath } = device;
  const of = { kind: 'nbd', device: device.device, devicePath, diskSequence: undefined } as const;
  const close = (): void => device[Symbol.dispose]();
  return { facts: { ...of, member }, nbd: { device, image, ...now }, [Symbol.dispose]: close };
}

/** The path may be gone by now, or not to be opened: then the device alone is held. */
function memberOfImage(
  world: DiskWorld,
  record: DiskRecord,
  { mode }: BackendNodes,
  { path }: ImagePlace,
  device: DeviceNumber,
): Member {
  try {
    using target = openTarget(path, 'r');
    return onDevice({ ...target.member, mode }, { device });
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    world.log('warning', `its guest goes on, though ${thrown.message}`, logFields(record));
    return { ...deviceMember(device), mode, path };
  }
}

/** A conflict now does not end what its guest has: it is told. */
function holdAgain(
  world: DiskWorld,
  record: DiskRecord,
  { member }: HeldFacts,
  { members }: OpenedImage,
  vms: VmBook,
): void {
  try {
    holdOpened(world, record, member, members, vms);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    world.log('warning', `its guest goes on, though ${thrown.message}`, logFields(record));
    noteHolder(world, record, [member, ...members]);
  }
}
