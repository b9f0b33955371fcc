/** Does one step of a plan and notes in the disk's record what has changed by it. */
import type { Failure } from '../base/failure.ts';
import { parseDiskSequence, parsePhysicalDevice, XenbusState } from '../disk/backend-nodes.ts';
import type { Step } from '../disk/plan.ts';
import type { Begun } from '../xenstore/store.ts';
import { NBD_MAJOR } from '../sys/nbd.ts';
import { adoptDevice } from './adopt.ts';
import type { DiskRecord, DiskWorld, Held } from './disk-record.ts';
import { logFields, noteHolder } from './disk-record.ts';
import { imageOfVbd, type Look } from './look.ts';
import { adoptImage, closeImage, holdImage, reconnectImage, severImage } from './nbd-disk.ts';
import { closeByForce, removeDiskNodes } from './toolstack.ts';
import type { VmBook } from './vm-book.ts';

/**
 * Carries out `step`. `changed` means that the store is no longer what the plan was made from.
 * Holding is done before anything is awaited: nobody can come between the look and the hold.
 * @throws Failure of the step; the store's own failures as they come
 */
export async function carryOut(
  world: DiskWorld,
  record: DiskRecord,
  step: Exclude<Step, { do: 'report' }>,
  look: Look | undefined,
  vms: VmBook,
  begun?: Begun,
): Promise<'done' | 'changed'> {
  switch (step.do) {
    case 'hold': {
      const { target } = step;
      const held =
        target.format === 'raw'
          ? hold(world, step, look)
          : await holdImage(world, record, target, vms);
      record.holdMs = performance.now() - (look?.beganMs ?? NaN);
      take(world, record, held);
      return 'done';
    }
    case 'adopt': {
      const { nodes, physicalDevice } = step;
      const device = parsePhysicalDevice(physicalDevice);
      if (device?.major === NBD_MAJOR && imageOfVbd(nodes).format !== 'raw') {
        take(world, record, await adoptImage(world, record, nodes, device));
      } else {
        const sequence = parseDiskSequence(await world.store.read(`${record.path}/diskseq`));
        take(world, record, adoptDevice(world, record, nodes, physicalDevice, sequence));
      }
      record.published = nodes.hotplugStatus === 'connected';
      if (record.published) record.outcome = { refusal: undefined };
      return 'done';
    }
    case 'reconnect':
      await reconnectImage(world, record, vms);
      return 'done';
    case 'sever':
      await severImage(record);
      return 'done';
    case 'release':
      await release(world, record);
      return 'done';
    case 'publish':
      return publish(world, record, step.values, begun);
    case 'refuse': {
      world.log('error', step.failure.message, logFields(record));
      const values = { 'hotplug-error': step.failure.message, 'hotplug-status': step.status };
      return publish(world, record, values, begun, step.failure);
    }
    case 'close backend':
      return closeBackend(world, record);
    case 'remove nodes':
      if (world.driverDomain) await world.store.remove(record.path);
      else await removeDiskNodes(world.store, record.key);
      world.log('notice', `removed its nodes: ${record.because.join(', ')}`, logFields(record));
      record.nodes = undefined;
      return 'done';
  }
}

/** Binds or opens what was looked at; the look's own descriptor stays the caller's. */
function hold(world: DiskWorld, step: Step & { do: 'hold' }, look: Look | undefined): Held {
  const { target } = step;
  const opened = look?.opened;
  if (opened === undefined) throw new Error(`nothing was opened of ${target.path}`);
  const readOnly = target.member.mode === 'r';
  if (target.kind === 'file') {
    const loop = world.loops.acquire({
      backingFd: opened.fd.number,
      device: opened.facts.device,
      inode: opened.facts.inode,
      readOnly,
      directIo: step.directIo,
      name: target.path,
    });
    const { device, devicePath, diskSequence } = loop;
    const facts = {
      kind: 'loop',
      device,
      devicePath,
      diskSequence,
      member: target.member,
    } as const;
    return { facts, loop, [Symbol.dispose]: () => loop[Symbol.dispose]() };
  }
  const claim = world.devices.acquire({
    fd: opened.fd.number,
    device: opened.facts.represents,
    readOnly,
    hostShares: target.hostShares,
    path: target.path,
  });
  const { device, diskSequence } = claim;
  const devicePath = target.path;
  const facts = {
    kind: 'device',
    device,
    devicePath,
    diskSequence,
    member: target.member,
  } as const;
  return { facts, [Symbol.dispose]: () => claim[Symbol.dispose]() };
}

/** Whoever holds an image has noted its parents as well. */
function take(world: DiskWorld, record: DiskRecord, held: Held): void {
  record.held = held;
  if (held.nbd === undefined) noteHolder(world, record, [held.facts.member]);
}

/** Gives back what is held; a record without a hold is left as it is. */
async function release(world: DiskWorld, record: DiskRecord): Promise<void> {
  const { held } = record;
  const was = logFields(record);
  held?.[Symbol.dispose]();
  if (held?.nbd !== undefined) await closeImage(world, record);
  world.holdings.remove(record.path);
  record.held = undefined;
  record.lowRoom = undefined;
  record.published = false;
  record.outcome = undefined;
  record.closingSeen = false;
  if (held !== undefined) world.log('info', `released ${held.facts.member.path}`, was);
}

/** Writes the outcome in one transaction, unless the disk was closed or removed meanwhile. */
async function publish(
  world: DiskWorld,
  record: DiskRecord,
  values: Readonly<Record<string, string>>,
  begun = world.store.begin(),
  refusal?: Failure,
): Promise<'done' | 'changed'> {
  const { path } = record;
  const written = await begun
    .run(async (tx) => {
      // One round trip: what must not be written is aborted. libxl writes online=0 with state 5.
      const writes = Object.entries(values).map(([name, value]) =>
        tx.write(`${path}/${name}`, value),
      );
      const [state] = await Promise.all([tx.read(`${path}/state`), ...writes]);
      if (!isWaiting(state)) throw new StaleDisk();
      return true;
    })
    .catch((thrown: unknown) => {
      if (thrown instanceof StaleDisk) return false;
      throw thrown;
    });
  if (!written || record.nodes === undefined) return 'changed';
  const physicalDevice = values['physical-device'] ?? record.nodes.physicalDevice;
  record.nodes = { ...record.nodes, physicalDevice, hotplugStatus: values['hotplug-status'] };
  record.published = refusal === undefined;
  record.outcome = { refusal };
  if (record.published) world.log('info', `attached ${record.nodes.params}`, logFields(record));
  return 'done';
}

/** Thrown inside a transaction to abort it: the disk is not waiting for a device any more. */
class StaleDisk extends Error {}

function isWaiting(state: string | undefined): boolean {
  return state !== undefined && Number(state) < XenbusState.closing;
}

/** On behalf of a dead guest, which cannot close its side. */
async function closeBackend(world: DiskWorld, record: DiskRecord): Promise<'done' | 'changed'> {
  record.closeAsked = true;
  const asked = await closeByForce(world.store, record.key);
  if (!asked || record.nodes === undefined) return 'changed';
  record.nodes = { ...record.nodes, online: false, state: XenbusState.closing };
  record.closingSeen = true;
  return 'done';
}
