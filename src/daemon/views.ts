/** What the API and the command line show of a disk: a stable shape, sizes in bytes. */
import { Failure } from '../base/failure.ts';
import { type DiskRecord, type DiskWorld } from '../backend/disk-record.ts';
import { factsOf } from '../backend/reconcile.ts';
import { XenbusState } from '../disk/backend-nodes.ts';
import { describeStep, planDisk } from '../disk/plan.ts';
import { describeRingStep, planRing, type RingFacts } from '../disk/ring-plan.ts';
import { vdevName } from '../disk/vdev.ts';
import type { DiskView, WhyView } from './api/shapes.ts';

/** What is shown of a disk now. @param guest its name, where it has one */
export function viewOf(world: DiskWorld, record: DiskRecord, guest: string | undefined): DiskView {
  const { key, nodes, held, ring } = record;
  const member = held?.facts.member ?? ring?.image.members[0];
  const sharers =
    member === undefined ? 0 : world.holdings.overlapping(member).filter(isGuest).length;
  return {
    domid: key.domid,
    guest: guest ?? null,
    vdev: vdevName(key.devid),
    devid: key.devid,
    kind: key.kind,
    state: stateOf(record),
    mode: nodes?.mode ?? member?.mode ?? 'r',
    // Of an empty drive the node has the format alone.
    path: member?.path ?? nodes?.params?.replace(/^\w+:$/, '') ?? '',
    device: held?.facts.devicePath ?? (ring === undefined ? null : 'ring'),
    sharers,
    error: refusalOf(record)?.message ?? record.reported ?? pauseOf(record),
    warning: record.lowRoom ?? null,
    hold_ms: record.holdMs ?? null,
    files: filesOf(world, record),
  };
}

function filesOf({ holdings }: DiskWorld, { path, held, ring }: DiskRecord): DiskView['files'] {
  const members =
    holdings.get(path)?.members ??
    ring?.image.members ??
    (held === undefined ? [] : [held.facts.member]);
  return members.map(({ path: file, mode }) => ({ path: file, mode }));
}

function isGuest(holder: { who: { type: string } }): boolean {
  return holder.who.type === 'guest';
}

/** Why it is not attached: what was tried, or what the toolstack was told. */
function refusalOf(record: DiskRecord): Failure | undefined {
  return record.refusal ?? record.outcome?.refusal;
}

/** Why its guest's writes wait. */
function pauseOf({ ring, key }: DiskRecord): string | null {
  if (ring === undefined || ring.paused === null) return null;
  if (ring.paused === 'admin') {
    return `an admin has paused it — vbd resume ${key.domid} ${vdevName(key.devid)}`;
  }
  const path = ring.image.members[0]?.path;
  const advice = 'make room; its guest waits, and goes on by itself';
  return `there is no room for ${path} (${ring.paused}) — ${advice}`;
}

function stateOf(record: DiskRecord): DiskView['state'] {
  const { nodes } = record;
  if (nodes !== undefined && !record.ours) return 'foreign';
  if (refusalOf(record) !== undefined) return 'refused';
  if (nodes === undefined || !nodes.online || nodes.state === XenbusState.closing) return 'closing';
  if (pauseOf(record) !== null) return 'paused';
  return record.published ? 'attached' : 'waiting';
}

/** Why a disk is as it is: the facts, what follows from them, and what would be done now. */
export function whyOf(world: DiskWorld, record: DiskRecord, guest: string | undefined): WhyView {
  if (record.ringFacts !== undefined) return whyOfRing(world, record, record.ringFacts, guest);
  const facts = factsOf(world, record, undefined);
  const plan = planDisk(facts);
  return {
    disk: viewOf(world, record, guest),
    facts: {
      nodes: facts.nodes ?? null,
      script: facts.ours ? 'vbdkit' : 'another',
      guest: facts.guest,
      backend: facts.backend,
      held: facts.held ?? null,
      published: facts.published,
      closing_seen: facts.closingSeen,
      refusal: facts.refusal?.message ?? null,
    },
    because: record.because.length > 0 ? record.because : plan.because,
    steps: plan.steps.map(describeStep),
  };
}

function whyOfRing(
  world: DiskWorld,
  record: DiskRecord,
  facts: RingFacts,
  guest: string | undefined,
): WhyView {
  const { because, step } = planRing(facts);
  const { frontend } = facts;
  return {
    disk: viewOf(world, record, guest),
    facts: {
      nodes: facts.nodes ?? null,
      script: 'vbdkit',
      guest: facts.guest,
      frontend: frontend.state,
      ring: frontend.ring instanceof Failure ? null : frontend.ring,
      tap: facts.tap,
      files: record.ring?.image.members.map(({ path, mode }) => ({ path, mode })) ?? [],
      closing_seen: facts.closingSeen,
      refusal: facts.refusal?.message ?? null,
    },
    because: [because],
    steps: step === undefined ? [] : [describeRingStep(step)],
  };
}
