/**
 * Reconcile, the acting half, for disks whose backend is vbdkit itself: asks the plan for one step
 * after another and does it, until the store, the guest and the tap agree.
 */
import { Failure } from '../base/failure.ts';
import { diskName, wasRefused, XenbusState } from '../disk/backend-nodes.ts';
import { frontendNames, parseFrontendNodes, queueNames } from '../disk/frontend-nodes.ts';
import { planRing, type RingFacts, type RingStep } from '../disk/ring-plan.ts';
import { MOST_QUEUES, MOST_RING_ORDER, RING_SECTOR_BYTES } from '../ring/blkif.ts';
import { MOST_INDIRECT_SEGMENTS } from '../ring/slots.ts';
import {
  callSoon,
  type DiskRecord,
  type DiskWorld,
  logFields,
  noteFault,
  reportFault,
  waitForImage,
} from './disk-record.ts';
import {
  changeMedium,
  follow,
  forget,
  hasEnded,
  isAway,
  openRingImage,
  pathsOf,
  type RingWorld,
  unfollow,
  wasOffered,
} from './ring-image.ts';
import { removeDiskNodes } from './toolstack.ts';
import { twinsOf } from './twins.ts';
import type { VmBook } from './vm-book.ts';

/** More steps than any disk needs from nothing to connected, or back. */
const MOST_STEPS = 16;
/** Bits of `info`. */
const Info = { cdrom: 1, removable: 2, readOnly: 4 } as const;

/**
 * Brings one disk a step nearer to what the store and the guest want of it, again and again.
 * @param readNodes reads the record's nodes anew
 * @throws Failure unavailable | timeout of the store; the same of the tap
 */
export async function reconcileRing(
  world: RingWorld,
  record: DiskRecord,
  vms: VmBook,
  readNodes: () => Promise<void>,
): Promise<void> {
  try {
    await reconcileSteps(world, record, vms, readNodes);
  } catch (thrown) {
    if (thrown instanceof Failure && mayAnswerSoon(world, thrown)) callSoon(world, record);
    throw thrown;
  }
}

/** A tap that takes no order now, for want of descriptors say, takes it later. */
function mayAnswerSoon({ tap }: RingWorld, thrown: Failure): boolean {
  if (thrown.kind === 'timeout') return true;
  const isTaps = thrown.kind === 'unavailable' && thrown.facts['socket'] !== undefined;
  return isTaps && !hasEnded(tap, thrown);
}

async function reconcileSteps(
  world: RingWorld,
  record: DiskRecord,
  vms: VmBook,
  readNodes: () => Promise<void>,
): Promise<void> {
  for (let steps = 0; steps < MOST_STEPS; steps++) {
    await settleDoubt(world, record);
    const facts = await factsOfRing(world, record);
    record.ringFacts = facts;
    const { because, step } = planRing(facts);
    record.because = [because];
    if (step === undefined || step.do === 'report') return report(world, record, step);
    if (step.do === 'open' && !world.mayHold() && !wasOffered(record)) {
      record.because = ['those who hold something already are looked at first'];
      return;
    }
    try {
      await carryOutRing(world, record, vms, step);
    } catch (thrown) {
      if (!(thrown instanceof Failure) || step.do === 'refuse') throw thrown;
      if (isAway(thrown)) record.tapDoubted = true;
      if (wasOffered(record) && isAway(thrown)) throw thrown;
      if (wasOffered(record) && step.do === 'open') return waitForImage(world, record, thrown);
      // A guest that was served keeps its disk: what there is too little of may be there in a moment.
      const wasServed = record.ring?.offer !== undefined;
      if (wasServed && thrown.kind === 'exhausted') return waitForImage(world, record, thrown);
      const { params } = record.nodes ?? {};
      // A store that was lost is no reason to refuse: then this throws, too.
      await readNodes();
      if (record.nodes?.params === params) record.refusal = thrown;
      continue;
    }
    await readNodes();
  }
  world.log('error', `${record.path} does not come to rest: ${record.because.join(', ')}`);
}

function report(
  world: DiskWorld,
  record: DiskRecord,
  fault: { sentence: string } | undefined,
): void {
  if (fault === undefined) record.reported = undefined;
  else reportFault(world, record, fault.sentence);
}

/**
 * Asks the tap what it has of a disk, where an order was not answered or an earlier vbdd gave it.
 * One that is to be opened is asked about then; of a refusal the toolstack is told first.
 */
async function settleDoubt(world: RingWorld, record: DiskRecord): Promise<void> {
  const { nodes, ring, refusal } = record;
  if (!record.tapDoubted) return;
  if (nodes?.online === true && (refusal === undefined ? ring === undefined : !wasRefused(nodes))) {
    return;
  }
  const { tap } = world;
  const known = await tap.find(diskName(record.key)).catch((thrown: unknown) => {
    if (!(thrown instanceof Failure) || !hasEnded(tap, thrown)) throw thrown;
    return undefined;
  });
  if (known === undefined) await unfollow(record);
  else if (ring === undefined) await follow(world, record, known.image, known);
  else {
    ring.connected = known.connected;
    ring.paused = known.paused;
  }
  record.tapDoubted = false;
}

async function factsOfRing(world: DiskWorld, record: DiskRecord): Promise<RingFacts> {
  const { store } = world;
  const { frontend } = pathsOf(record);
  const read = async (names: readonly string[]): Promise<Record<string, string | undefined>> => {
    const { values } = await store.readAll(names.map((name) => `${frontend}/${name}`));
    return Object.fromEntries(names.map((name, index) => [name, values[index]]));
  };
  const common = await read(frontendNames);
  const ofQueues = queueNames(common);
  const offer = ofQueues.length === 0 ? common : { ...common, ...(await read(ofQueues)) };
  const { ring, nodes, refusal, key, closingSeen } = record;
  const offered = parseFrontendNodes(offer);
  const goneSinceMs = world.goneSinceMs(key.domid);
  // Who lives matters only when the store has no such disk any more.
  const isKnown = nodes !== undefined || (await store.isIntroduced(key.domid));
  return {
    nodes,
    kernel: world.blkback.serves(key),
    frontend: offered,
    newRing: ring?.offer !== undefined && ring.offer !== JSON.stringify(offered.ring),
    newMedium: offered.cdrom && ring !== undefined && ring.params !== nodes?.params,
    guest: goneSinceMs !== undefined ? 'gone' : isKnown ? 'alive' : 'unknown',
    tap: ring === undefined ? 'nothing' : ring.connected ? 'connected' : 'open',
    paused: ring !== undefined && ring.paused !== null,
    refusal,
    closingSeen,
    driverDomain: world.driverDomain,
    graceOver: goneSinceMs !== undefined && world.now() - goneSinceMs >= world.graceMs,
  };
}

async function carryOutRing(
  world: RingWorld,
  record: DiskRecord,
  vms: VmBook,
  step: Exclude<RingStep, { do: 'report' }>,
): Promise<void> {
  const { tap } = world;
  const name = diskName(record.key);
  switch (step.do) {
    case 'open':
      await openRingImage(world, record, vms);
      // Meanwhile another medium may have come into its drive.
      return record.ringFacts?.frontend.cdrom === true ? tellSize(world, record) : undefined;
    case 'unbind':
      return world.blkback.release(record.key);
    case 'offer': {
      const values = { ...offered, ...(await forDeviceModel(world, record)) };
      const state = String(XenbusState.initWait);
      if (!(await write(world, record, { ...values, state }))) return;
      record.published = true;
      record.outcome ??= { refusal: undefined };
      return;
    }
    case 'change':
      await changeMedium(world, record, vms);
      return tellSize(world, record);
    case 'connect': {
      const { nodes } = record;
      const discard = nodes?.discard !== false;
      if (!step.takeUp) await quietTwins(world, record, vms);
      await tap.connect(name, {
        ...step.ring,
        domid: record.key.domid,
        discard,
        takeUp: step.takeUp,
      });
      if (record.ring !== undefined) {
        record.ring.connected = true;
        record.ring.offer = JSON.stringify(step.ring);
      }
      return;
    }
    case 'announce': {
      const state = String(XenbusState.connected);
      if (!(await write(world, record, { ...describe(record), state }))) return;
      world.log('info', `serves ${record.nodes?.params}`, logFields(record));
      return;
    }
    case 'disconnect':
      await tap.disconnect(name);
      if (record.ring !== undefined) record.ring.connected = false;
      return;
    case 'close':
      noteFault(world, record, await tap.close(name));
      return forget(world, record);
    case 'stop waiting':
      return stopWaiting(world, record);
    case 'move':
      await write(world, record, { state: String(step.state) });
      return;
    case 'refuse':
      return refuse(world, record, step.failure);
    case 'remove nodes':
      if (world.driverDomain) await world.store.remove(record.path);
      else await removeDiskNodes(world.store, record.key);
      world.log('notice', `removed its nodes: ${record.because.join(', ')}`, logFields(record));
      return;
  }
}

/** What its guest waits for comes to an end, so that it can let go of the disk. */
async function stopWaiting({ tap }: RingWorld, { key, ring }: DiskRecord): Promise<void> {
  const name = diskName(key);
  if (ring?.paused === 'admin') {
    await tap.hold(name, false);
    // There may be no room for it, either.
    ring.paused = (await tap.find(name))?.paused ?? null;
    return;
  }
  await tap.whenFull(name, 'report');
  if (ring !== undefined) ring.paused = null;
}

/**
 * A guest that goes on in another domain, with a ring of its own there, has none here any more: what
 * was under way on that has ended before the new one's first request begins.
 */
async function quietTwins(world: RingWorld, record: DiskRecord, vms: VmBook): Promise<void> {
  const { domid, devid } = record.key;
  for (const twin of await twinsOf(world, record, vms)) {
    if (twin.domid === domid || twin.devid !== devid) continue;
    await world.tap.disconnect(diskName(twin)).catch((thrown: unknown) => {
      if (!(thrown instanceof Failure) || thrown.kind !== 'not-found') throw thrown;
    });
  }
}

/** What every backend of ours offers. */
const offered: Readonly<Record<string, string>> = {
  'max-ring-page-order': String(MOST_RING_ORDER),
  'multi-queue-max-queues': String(MOST_QUEUES),
  'feature-max-indirect-segments': String(MOST_INDIRECT_SEGMENTS),
  'hotplug-status': 'connected',
};

/** Writes of less are slower: the host's page cache reads the rest first. */
const PHYSICAL_SECTOR_BYTES = 4096;

/**
 * A guest without drivers of its own reads the disk through its device model at first: libxl gives
 * that the NBD socket that this node names.
 */
async function forDeviceModel(
  { store, tap, driverDomain }: RingWorld,
  { key }: DiskRecord,
): Promise<Record<string, string>> {
  if (key.kind !== 'vbd3' || driverDomain) return {};
  if ((await store.read(`/libxl/${key.domid}/type`)) !== 'hvm') return {};
  return { 'physical-device-path': await tap.export(diskName(key)) };
}

/** What the guest is told of the disk. */
function describe({ ring, nodes, ringFacts }: DiskRecord): Record<string, string> {
  if (ring === undefined) throw new Error('a disk that is not open is not described');
  const { sectors, writable, clusterBytes, sectorBytes } = ring.image;
  const discard = writable && nodes?.discard !== false;
  const medium = ringFacts?.frontend.cdrom === true ? Info.cdrom | Info.removable : 0;
  return {
    'feature-flush-cache': '1',
    'feature-barrier': '1',
    'feature-persistent': '0',
    ...(discard
      ? {
          'feature-discard': '1',
          'discard-granularity': String(Math.max(clusterBytes, sectorBytes)),
          'discard-alignment': '0',
          'discard-secure': '0',
        }
      : {}),
    sectors: String(sectors),
    info: String((writable ? 0 : Info.readOnly) | medium),
    'sector-size': String(sectorBytes),
    'physical-sector-size': String(Math.max(sectorBytes, PHYSICAL_SECTOR_BYTES)),
  };
}

/**
 * Writes nodes of the backend, unless its state is another than the one that was read: its directory
 * may be gone, which writing would bring back, and who asks for its end must not be contradicted.
 * @returns whether it was written
 */
function write(
  { store }: DiskWorld,
  { path, nodes }: DiskRecord,
  values: Readonly<Record<string, string>>,
): Promise<boolean> {
  return store.transaction(async (tx) => {
    const state = await tx.read(`${path}/state`);
    if (state === undefined || Number(state) !== nodes?.state) return false;
    for (const [name, value] of Object.entries(values)) void tx.write(`${path}/${name}`, value);
    return true;
  });
}

/**
 * Gives a disk that its guest may be using another size, and tells the guest.
 * @returns the new size in bytes
 * @throws Failure invalid when it would shrink; gone when the guest cannot be told; unsupported | io
 */
export async function resizeRing(
  world: DiskWorld,
  record: DiskRecord,
  sizeBytes: number,
): Promise<number> {
  const { ring, key, nodes } = record;
  if (ring === undefined || world.tap === undefined) throw new Error('a ring is resized');
  if (nodes === undefined) {
    const advice = 'detach it, then attach it again';
    const what = 'the store has no nodes of it any more: its guest cannot be told of another size';
    throw new Failure('gone', `${what} — ${advice}`);
  }
  const now = ring.image.sectors * RING_SECTOR_BYTES;
  if (sizeBytes < now) {
    const advice = 'a disk can only grow while it is attached';
    throw new Failure('invalid', `the disk has ${now} bytes — ${advice}`);
  }
  ring.image = await world.tap.resize(diskName(key), sizeBytes);
  await tellSize(world, record);
  return ring.image.sectors * RING_SECTOR_BYTES;
}

/** Tells the guest how large the disk is now. */
async function tellSize({ store }: DiskWorld, { path, ring }: DiskRecord): Promise<void> {
  await store.transaction(async (tx) => {
    const [state, told] = await Promise.all([tx.read(`${path}/state`), tx.read(`${path}/sectors`)]);
    // Who was told nothing yet is told all at once.
    if (state === undefined || told === undefined) return;
    void tx.write(`${path}/sectors`, String(ring?.image.sectors ?? 0));
    // The same state once more: a frontend looks at the size then.
    void tx.write(`${path}/state`, state);
  });
}

async function refuse(world: DiskWorld, record: DiskRecord, failure: Failure): Promise<void> {
  record.refusal = failure;
  world.log('error', failure.message, logFields(record));
  const status = failure.kind === 'in-use' ? 'busy' : 'error';
  // libxl asks its script only in state 2; that then tells it of the refusal.
  const state = record.nodes?.state === XenbusState.initialising ? { state: '2' } : {};
  const values = { 'hotplug-error': failure.message, 'hotplug-status': status, ...state };
  if (await write(world, record, values)) record.outcome = { refusal: failure };
}
