/**
 * Reconcile, the acting half, for disks whose backend is vbdkit itself: asks the plan for one step
 * after another and does it, until the store, the guest and the tap agree.
 */
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { type BackendNodes, XenbusState } from '../disk/backend-nodes.ts';
import { frontendNames, MOST_RING_ORDER, parseFrontendNodes } from '../disk/frontend-nodes.ts';
import type { Member } from '../disk/identity.ts';
import { diskPaths } from '../disk/libxl-nodes.ts';
import { planRing, type RingFacts, type RingStep } from '../disk/ring-plan.ts';
import { judge } from '../disk/sharing.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { imageFormats, type ImageFormat } from '../image/formats.ts';
import { MOST_INDIRECT_SEGMENTS } from '../ring/slots.ts';
import { type DiskRecord, type DiskWorld, logFields, noteHolder } from './disk-record.ts';
import { lookAtTarget } from './look.ts';
import { openTarget } from './target.ts';
import type { OpenedImage, Tap } from './tap.ts';
import type { VmBook } from './vm-book.ts';

/** More steps than any disk needs from nothing to connected, or back. */
const MOST_STEPS = 16;
const INFO_READ_ONLY = 4;

/** True of disks whose backend is the tap on the ring: kinds that no kernel serves, through our script. */
export function isRingDisk({ key, ours, ring }: DiskRecord): boolean {
  return ring !== undefined || (key.kind === 'vbd3' && ours);
}

/**
 * Brings one disk a step nearer to what the store and the guest want of it, again and again.
 * @param readNodes reads the record's nodes anew
 * @throws Failure unavailable | timeout of the store; unavailable of the tap
 */
export async function reconcileRing(
  world: DiskWorld & { readonly tap: Tap },
  record: DiskRecord,
  vms: VmBook,
  readNodes: () => Promise<void>,
): Promise<void> {
  for (let steps = 0; steps < MOST_STEPS; steps++) {
    const facts = await factsOfRing(world, record);
    const { because, step } = planRing(facts);
    record.because = [because];
    if (step === undefined) return;
    if (step.do === 'open' && !world.mayHold() && !wasOffered(record)) {
      record.because = ['those who hold something already are looked at first'];
      return;
    }
    try {
      await carryOutRing(world, record, vms, step);
    } catch (thrown) {
      if (!(thrown instanceof Failure) || step.do === 'refuse') throw thrown;
      if (wasOffered(record) && isAway(thrown)) throw thrown;
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

/**
 * True of a disk whose image some vbdd had opened and offered to the guest: it is held before new
 * ones are, and waits for a tap that is away. One that is new is told.
 */
function wasOffered({ nodes }: DiskRecord): boolean {
  return nodes?.hotplugStatus === 'connected';
}

function isAway({ kind }: Failure): boolean {
  return kind === 'unavailable' || kind === 'timeout';
}

async function factsOfRing(world: DiskWorld, record: DiskRecord): Promise<RingFacts> {
  const { frontend } = pathsOf(record);
  const { values } = await world.store.readAll(frontendNames.map((name) => `${frontend}/${name}`));
  const named = frontendNames.map((name, index) => [name, values[index]] as const);
  const { ring, nodes, refusal, key } = record;
  return {
    nodes,
    frontend: parseFrontendNodes(Object.fromEntries(named)),
    guest: world.goneSinceMs(key.domid) === undefined ? 'alive' : 'gone',
    tap: ring === undefined ? 'nothing' : ring.connected ? 'connected' : 'open',
    refusal,
  };
}

function pathsOf({ key }: DiskRecord): ReturnType<typeof diskPaths> {
  const { domid, devid } = key;
  return diskPaths({ domid, devid, backendDomid: 0, kind: 'vbd3' });
}

/** What the tap calls the disk. */
export function tapName({ key }: Pick<DiskRecord, 'key'>): string {
  return `${key.kind}-${key.domid}-${key.devid}`;
}

async function carryOutRing(
  world: DiskWorld & { readonly tap: Tap },
  record: DiskRecord,
  vms: VmBook,
  step: RingStep,
): Promise<void> {
  const { tap } = world;
  const name = tapName(record);
  switch (step.do) {
    case 'open':
      return openImage(world, record, vms);
    case 'offer':
      await write(world, record, { ...offered, state: String(XenbusState.initWait) });
      record.published = true;
      record.outcome ??= { refusal: undefined };
      return;
    case 'connect': {
      const { nodes } = record;
      const discard = nodes?.discard !== false;
      await tap.connect(name, {
        ...step.ring,
        domid: record.key.domid,
        discard,
        takeUp: step.takeUp,
      });
      if (record.ring !== undefined) record.ring.connected = true;
      return;
    }
    case 'announce':
      await write(world, record, { ...describe(record), state: String(XenbusState.connected) });
      world.log('info', `serves ${record.nodes?.params}`, logFields(record));
      return;
    case 'disconnect':
      await tap.disconnect(name);
      if (record.ring !== undefined) record.ring.connected = false;
      return;
    case 'close':
      await tap.close(name);
      return forget(world, record);
    case 'move':
      return write(world, record, { state: String(step.state) });
    case 'refuse':
      return refuse(world, record, step.failure);
  }
}

/** What every backend of ours offers. */
const offered: Readonly<Record<string, string>> = {
  'max-ring-page-order': String(MOST_RING_ORDER),
  'multi-queue-max-queues': '1',
  'feature-max-indirect-segments': String(MOST_INDIRECT_SEGMENTS),
  'hotplug-status': 'connected',
};

/** What the guest is told of the disk. */
function describe({ ring, nodes }: DiskRecord): Record<string, string> {
  if (ring === undefined) throw new Error('a disk that is not open is not described');
  const { sectors, writable, clusterBytes } = ring.image;
  const discard = writable && nodes?.discard !== false;
  return {
    'feature-flush-cache': '1',
    'feature-barrier': '1',
    'feature-persistent': '0',
    ...(discard
      ? {
          'feature-discard': '1',
          'discard-granularity': String(Math.max(clusterBytes, SECTOR_BYTES)),
          'discard-alignment': '0',
          'discard-secure': '0',
        }
      : {}),
    sectors: String(sectors),
    info: writable ? '0' : String(INFO_READ_ONLY),
    'sector-size': String(SECTOR_BYTES),
    'physical-sector-size': String(SECTOR_BYTES),
  };
}

/** Writes nodes of the backend, unless its directory is gone: writing would bring it back. */
async function write(
  { store }: DiskWorld,
  { path }: DiskRecord,
  values: Readonly<Record<string, string>>,
): Promise<void> {
  await store.transaction(async (tx) => {
    if ((await tx.read(`${path}/state`)) === undefined) return;
    for (const [name, value] of Object.entries(values)) void tx.write(`${path}/${name}`, value);
  });
}

async function refuse(world: DiskWorld, record: DiskRecord, failure: Failure): Promise<void> {
  record.refusal = failure;
  world.log('error', failure.message, logFields(record));
  const status = failure.kind === 'in-use' ? 'busy' : 'error';
  // libxl asks its script only in state 2; that then tells it of the refusal.
  const state = record.nodes?.state === XenbusState.initialising ? { state: '2' } : {};
  const values = { 'hotplug-error': failure.message, 'hotplug-status': status, ...state };
  await write(world, record, values);
  record.outcome = { refusal: failure };
}

/** Looks at the image, holds it against others, has the tap open it, and holds its parents too. */
async function openImage(
  world: DiskWorld & { readonly tap: Tap },
  record: DiskRecord,
  vms: VmBook,
): Promise<void> {
  const { nodes } = record;
  if (nodes === undefined) throw new Error(`${record.path} has no nodes`);
  const name = tapName(record);
  try {
    const place = imageOfParams(nodes.params);
    const member = await lookAndHold(world, record, vms, place);
    const known = await findOpened(world.tap, record);
    const writable = nodes.mode !== 'r';
    const wanted = { path: member.path, format: place.format, writable };
    const image = known?.image ?? (await world.tap.open(name, wanted));
    holdParents(world, record, member, image.files.slice(1), vms);
    await follow(world, record, image, known?.connected === true);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    if (wasOffered(record)) {
      if (isAway(thrown)) throw thrown;
      const known = await world.tap.find(name);
      if (known?.connected === true) {
        const sentence = `its guest goes on, though ${thrown.message}`;
        world.log('warning', sentence, logFields(record));
        return follow(world, record, known.image, true);
      }
    }
    world.holdings.remove(record.path);
    await world.tap.close(name).catch(() => {});
    throw thrown;
  }
}

/** What an earlier vbdd had the tap open for this disk: its guest goes on. */
async function findOpened(tap: Tap, record: DiskRecord): ReturnType<Tap['find']> {
  const name = tapName(record);
  const known = await tap.find(name);
  if (known === undefined || wasOffered(record)) return known;
  // It is of a disk that had this one's name before.
  await tap.close(name);
  return undefined;
}

/** From now on the guest is listened to. */
async function follow(
  world: DiskWorld,
  record: DiskRecord,
  image: OpenedImage,
  connected: boolean,
): Promise<void> {
  const { frontend } = pathsOf(record);
  const again = (): void => world.callAgain(record.key);
  const watch = await world.store.observe(`${frontend}/state`, again);
  record.ring = { image, connected, watch };
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

/** Parents are read: nobody may write them meanwhile. @throws Failure in-use */
export function holdParents(
  world: DiskWorld,
  record: DiskRecord,
  own: Member,
  files: readonly { readonly path: string; readonly writable: boolean }[],
  vms: VmBook,
): void {
  const members = files.map(({ path, writable }) => {
    using target = openTarget(path, writable ? 'w' : 'r');
    return target.member;
  });
  const vm = vms.of(record.key.domid);
  for (const member of members) {
    const rivals = world.holdings.rivals(member).filter(({ key }) => key !== record.path);
    const asked = { members: [member], vm };
    const conflict = judge(asked, rivals, (domid) => vms.of(domid) ?? { domid });
    if (conflict !== undefined) throw conflict;
  }
  noteHolder(world, record, [own, ...members]);
}

async function forget(world: DiskWorld, record: DiskRecord): Promise<void> {
  const { ring } = record;
  record.ring = undefined;
  record.published = false;
  record.outcome = undefined;
  world.holdings.remove(record.path);
  await ring?.watch[Symbol.asyncDispose]();
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
