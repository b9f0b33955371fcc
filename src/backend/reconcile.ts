/**
 * Reconcile, the acting half: gathers the facts of one disk, asks the plan, carries out its first
 * step, and asks again until nothing is left to do. Watches, start-up and the sweep all come here.
 */
import { sleep } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import {
  type BackendNodes,
  formatPhysicalDevice,
  nodeNames,
  parseBackendNodes,
  wasRefused,
} from '../disk/backend-nodes.ts';
import { type DiskFacts, planDisk, type Step } from '../disk/plan.ts';
import type { Begun } from '../xenstore/store.ts';
import { BUSY_LOOKS, isBusy, LOOK_AGAIN_MS } from './busy.ts';
import { carryOut } from './carry-out.ts';
import { type DiskRecord, type DiskWorld, reportFault, waitForImage } from './disk-record.ts';
import { observeForeign } from './foreign.ts';
import { imageOfVbd, type Look, lookAtTarget, wantsTarget } from './look.ts';
import { holdServed } from './nbd-disk.ts';
import { reconcileRing } from './ring-disk.ts';
import { type VmBook, vmBook } from './vm-book.ts';

/** A plan has at most a handful of steps; more passes than this would mean two sides undoing each other. */
const MOST_PASSES = BUSY_LOOKS + 12;

/**
 * Brings one disk to what the store wants of it. What cannot be done is written to the disk's own
 * nodes and kept in `record.refusal`; only the loss of the store itself is thrown.
 * @param onRead told the place in the store's stream where the nodes were read: events before it are covered
 * @throws Failure unavailable | timeout
 */
export async function reconcileDisk(
  world: DiskWorld,
  record: DiskRecord,
  onRead: (at: number) => void = () => {},
): Promise<void> {
  using begun = mayBeGiven(world, record) ? world.store.begin() : undefined;
  await readNodes(world, record, onRead);
  await askGuest(world, record);
  const vms = vmBook(world.store);
  const { tap } = world;
  if (tap !== undefined && record.onRing) {
    return reconcileRing({ ...world, tap }, record, vms, () => readNodes(world, record, onRead));
  }
  if (!record.ours) observeForeign(world, record);
  holdServed(world, record);
  const patience = { looks: BUSY_LOOKS };
  for (let pass = 0; pass < MOST_PASSES; pass++) {
    if (wantsTarget(record)) await world.turn();
    const step = await nextStep(world, record, vms, begun, patience);
    if (step === undefined) return;
    if (step === 'look again') {
      await readNodes(world, record, onRead);
      await askGuest(world, record);
    }
  }
  world.log('error', `${record.path} does not come to rest: ${record.because.join(', ')}`);
}

/**
 * True of a disk that is new here: it most likely is to be given a device, and the transaction that
 * says so is asked for with the first reading.
 */
function mayBeGiven(world: DiskWorld, { key, nodes, held }: DiskRecord): boolean {
  const isNew = key.kind === 'vbd' && nodes === undefined && held === undefined;
  return isNew && world.mayHold();
}

/**
 * Plans and does one step. Between looking at the target and holding it nothing is awaited.
 * @param patience how often a device that another program has is looked at again before it is refused
 */
async function nextStep(
  world: DiskWorld,
  record: DiskRecord,
  vms: VmBook,
  begun: Begun | undefined,
  patience: { looks: number },
): Promise<Step | 'look again' | undefined> {
  const looks = world.mayHold() && wantsTarget(record);
  const look = looks ? lookAtTarget(world, record, vms) : undefined;
  using _target = look?.opened;
  if (look !== undefined && look.unknownDomids.length > 0) {
    await vms.learn(look.unknownDomids);
    return nextStep(world, record, vms, begun, patience);
  }
  const plan = planDisk(factsOf(world, record, look));
  record.because = plan.because;
  const [step] = plan.steps;
  if (step === undefined) return undefined;
  if (step.do === 'report') {
    reportFault(world, record, step.sentence);
    return undefined;
  }
  try {
    return (await carryOut(world, record, step, look, vms, begun)) === 'changed'
      ? 'look again'
      : step;
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    if (wantsDevice(step) && isBusy(thrown) && patience.looks > 0) {
      patience.looks -= 1;
      await sleep(LOOK_AGAIN_MS);
      return 'look again';
    }
    if (step.do === 'adopt') {
      record.unadoptable = thrown;
      // Not ours to hold, but its guest may use it all the same.
      if (world.backendOf(record.key) === 'there') observeForeign(world, record);
    } else if (step.do === 'hold') record.refusal = thrown;
    else if (step.do === 'reconnect' || step.do === 'sever') {
      waitForImage(world, record, thrown);
      return undefined;
    } else throw thrown;
    return step;
  }
}

function wantsDevice(step: Step): boolean {
  return step.do === 'hold' || step.do === 'adopt';
}

/** The facts that the plan is made from. */
export function factsOf(world: DiskWorld, record: DiskRecord, look: Look | undefined): DiskFacts {
  const goneSinceMs = world.goneSinceMs(record.key.domid);
  return {
    key: record.key,
    nodes: record.nodes,
    ours: record.ours,
    driverDomain: world.driverDomain,
    guest: goneSinceMs === undefined ? record.guest : 'gone',
    backend: mattersWhoHasItOpen(record, goneSinceMs) ? world.backendOf(record.key) : 'unknown',
    held: record.held && { ...record.held.facts, link: record.held.nbd?.link },
    published: record.published,
    closingSeen: record.closingSeen,
    refusal: record.refusal,
    unadoptable: record.unadoptable,
    target: look?.target,
    conflict: look?.conflict,
    graceOver: goneSinceMs !== undefined && world.now() - goneSinceMs >= world.graceMs,
    closeAsked: record.closeAsked,
  };
}

/** A disk in ordinary life is not asked about: the look costs system calls. */
function mattersWhoHasItOpen(record: DiskRecord, goneSinceMs: number | undefined): boolean {
  const lost = record.nodes === undefined && record.held !== undefined;
  return lost || record.unadoptable !== undefined || goneSinceMs !== undefined;
}

async function readNodes(
  world: DiskWorld,
  record: DiskRecord,
  onRead: (at: number) => void,
): Promise<void> {
  const { values, at } = await world.store.readAll(
    nodeNames.map((name) => `${record.path}/${name}`),
  );
  onRead(at);
  const named = nodeNames.map((name, index) => [name, values[index]] as const);
  noteNodes(world, record, parseBackendNodes(Object.fromEntries(named)));
}

function noteNodes(world: DiskWorld, record: DiskRecord, nodes: DiskRecord['nodes']): void {
  const before = record.nodes;
  const anew = before?.hotplugStatus !== undefined && nodes?.hotplugStatus === undefined;
  if (anew || before?.params !== nodes?.params || before?.mode !== nodes?.mode) {
    record.refusal = undefined;
    if (record.held === undefined && record.ring === undefined) record.outcome = undefined;
    record.unadoptable = undefined;
  }
  if (nodes !== undefined) {
    if (!nodes.online || (nodes.state >= 5 && nodes.state <= 6)) record.closingSeen = true;
    else if (before === undefined) record.closingSeen = false;
    // What is held stays ours, even when its script's name has become another's meanwhile.
    const held = record.held !== undefined;
    record.ours = held || isOurs(world, record, nodes);
    record.onRing = record.ours && isOnRing(world, record, nodes);
    noteTold(record, nodes);
  }
  record.nodes = nodes;
}

function isOurs(world: DiskWorld, { key, ring }: DiskRecord, nodes: BackendNodes): boolean {
  if (key.kind === 'vbd') return world.isOurs(nodes.script);
  if (world.tap === undefined) return false;
  if (key.kind === 'vbd3') return world.isOurs(nodes.script);
  return ring !== undefined || world.standsIn(key.domid);
}

/** Of kind vbd, whoever has the disk keeps it, whatever the host's policy by now. */
function isOnRing({ tap, images }: DiskWorld, record: DiskRecord, nodes: BackendNodes): boolean {
  const { key, held, ring } = record;
  if (tap === undefined || held !== undefined) return false;
  if (key.kind !== 'vbd' || ring !== undefined) return true;
  if (nodes.physicalDevice !== undefined) return false;
  return nodes.hotplugStatus === 'connected' || (images === 'ring' && needsTap(nodes));
}

function needsTap(nodes: BackendNodes): boolean {
  try {
    return imageOfVbd(nodes).format !== 'raw';
  } catch (thrown) {
    if (thrown instanceof Failure) return false;
    throw thrown;
  }
}

/** What was told is in the store even when xenstored's answer to it was lost. */
function noteTold(record: DiskRecord, nodes: BackendNodes): void {
  const { held, refusal } = record;
  const { hotplugStatus, physicalDevice } = nodes;
  const given = held === undefined ? undefined : formatPhysicalDevice(held.facts.device);
  if (hotplugStatus === 'connected' && given !== undefined && given === physicalDevice) {
    record.published = true;
    record.outcome ??= { refusal: undefined };
  }
  if (wasRefused(nodes) && refusal !== undefined) record.outcome ??= { refusal };
}

/** Whether the guest lives matters only when its nodes are gone and something is still held for it. */
async function askGuest(world: DiskWorld, record: DiskRecord): Promise<void> {
  const matters = record.nodes === undefined && record.held !== undefined;
  if (!matters) record.guest = 'not asked';
  else record.guest = (await world.store.isIntroduced(record.key.domid)) ? 'alive' : 'gone';
}
