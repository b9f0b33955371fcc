/**
 * The steps of a history: what a host's toolstack, its guests, its admin and its accidents do, as
 * fast-check commands over the model. Each step may do several things side by side, with vbdd killed
 * or cut off in the middle.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import type fc from 'fast-check';
import { aimed } from './history-aim.ts';
import { settle } from './history-checks.ts';
import {
  type Attempt,
  type Disk,
  diskOf,
  foreignDisk,
  isForeign,
  judgeAttempts,
  keyOf,
  type Model,
  type Op,
  type Outcome,
  type Slot,
  type Wish,
} from './history-model.ts';
import { perform, type Play } from './history-play.ts';

/** What happens to vbdd while the things of a step are done. */
export type Meanwhile =
  | { readonly what: 'nothing' }
  | { readonly what: 'killed' | 'cut off'; readonly afterMs: number; readonly forMs: number };
const nothing: Meanwhile = { what: 'nothing' };

export interface Step {
  readonly ops: readonly Op[];
  readonly meanwhile: Meanwhile;
  /** Whether the next step waits until all is quiet, and outsiders were asked. */
  readonly settles: boolean;
}

export type HistoryCommand = fc.AsyncCommand<Model, Play>;

/** The disks that an operation asks for. */
function wishesOf(op: Op): readonly Wish[] {
  if (op.op === 'create') return op.disks;
  return op.op === 'attach' ? [op.wish] : [];
}

const isFirst = ({ op }: Op): boolean => op === 'replace' || op === 'foreign';

/** Several things done side by side, and what becomes of vbdd meanwhile. */
export function stepCommand(step: Step): HistoryCommand {
  let ops = step.ops;
  return {
    check: (model) => aimed(model, step.ops).length > 0,
    async run(model, play) {
      ops = aimed(model, step.ops);
      // Foreign hands and new files come first: they ask nobody, so there is nothing to judge.
      for (const op of ops.filter(isFirst)) await doFirst(model, play, op);
      const rest = ops.filter((op) => !isFirst(op));
      const before = [...model.disks.values()].map((disk) => markLeaving(disk, rest));
      const names = rest.map((op) => (op.op === 'create' ? `${op.slot}${++model.created}` : ''));
      for (const [index, op] of rest.entries()) addGuest(model, op, names[index] ?? '');
      const doing = rest.map((op, index) => {
        const doomed = (op.op === 'attach' || op.op === 'detach') && dies(rest, op.slot);
        return perform(play, model, op, names[index], doomed);
      });
      const fate = model.vbdd ? step.meanwhile : nothing;
      await meanwhile(play, fate);
      const outcomes = await Promise.all(doing);
      if (fate.what === 'killed') shake(before);
      judge(model, rest, before, outcomes, fate.what === 'killed');
      for (const [index, op] of rest.entries()) apply(model, op, outcomes[index] ?? 'ok', rest);
      if (fate.what === 'cut off') await play.site.vbdd.inside?.sweep();
      if (fate.what === 'cut off') forgetDead(model);
      if (fate.what === 'killed') killed(model);
      if (step.settles) await settle(play, model);
    },
    toString: () => showStep({ ...step, ops }),
  };
}

function showStep({ ops, meanwhile, settles }: Step): string {
  const what = ops.map((op) => JSON.stringify(op)).join(' + ');
  const { what: fate, ...times } = meanwhile;
  const vbdd = fate === 'nothing' ? '' : ` while vbdd is ${fate} ${JSON.stringify(times)}`;
  return `${what}${vbdd}${settles ? '' : ', at once'}`;
}

/** What a killed vbdd leaves behind of the disks whose backends may not have opened them yet. */
function shake(disks: Iterable<Disk>): void {
  for (const disk of disks) {
    const closed = disk.state === 'new' || disk.state === 'unused';
    if (closed && !isForeign(disk.holder)) disk.state = 'shaky';
  }
}

function killed(model: Model): void {
  shake(model.disks.values());
  rememberDead(model);
}

/** Who died about when vbdd's connection was lost may never be missed. */
function forgetDead(model: Model): void {
  for (const guest of model.guests.values()) guest.forgotten ||= !guest.alive;
}

/** A vbdd that starts takes everyone for dead whom the store does not know. */
function rememberDead(model: Model): void {
  for (const guest of model.guests.values()) guest.forgotten = false;
}

async function doFirst(model: Model, play: Play, op: Op): Promise<void> {
  if (op.op === 'foreign') {
    // An earlier one of the step may be in its way.
    if (aimed(model, [op]).length === 0) return;
    model.disks.set(keyOf(op.kind, 'xvda'), foreignDisk(model, op));
  }
  const tag = `a${++model.created + 1}`;
  if (op.op === 'replace') model.tags.set('a.img', tag);
  assert.equal(await perform(play, model, op, tag), 'ok');
}

/** A copy, said to be leaving when it may be gone at any time of the step. */
function markLeaving(disk: Disk, ops: readonly Op[]): Disk {
  const leaves = ops.some((op) => {
    if (op.op === 'end') return op.slot === disk.holder;
    if (op.op === 'unforeign') return op.kind === disk.holder;
    return op.op === 'detach' && op.slot === disk.holder && op.vdev === disk.vdev;
  });
  return { ...disk, leaving: disk.leaving || leaves };
}

function addGuest(model: Model, op: Op, name: string): void {
  if (op.op !== 'create') return;
  const beside = op.beside === undefined ? undefined : model.guests.get(op.beside.slot);
  const half = op.beside?.as === 'half';
  const vm = half && beside !== undefined ? beside.vm : name;
  const stubOf = half ? undefined : beside;
  model.guests.set(op.slot, { vm, stubOf, alive: true, forgotten: false });
}

async function meanwhile({ site }: Play, fate: Meanwhile): Promise<void> {
  if (fate.what === 'nothing') return;
  await sleep(fate.afterMs);
  if (fate.what === 'cut off') return site.vbdd.inside?.cut();
  await site.vbdd.stop();
  await sleep(fate.forMs);
  await site.vbdd.start();
}

function judge(
  model: Model,
  ops: readonly Op[],
  before: readonly Disk[],
  outcomes: readonly Outcome[],
  vbddKilled: boolean,
): void {
  const attempts = ops.flatMap((op, index): Attempt[] => {
    const outcome = outcomes[index] ?? 'ok';
    if (op.op !== 'create' && op.op !== 'attach') {
      const excused = op.op === 'detach' && dies(ops, op.slot);
      if (outcome !== 'ok' && !excused) assert.fail(`${JSON.stringify(op)}: ${outcome.message}`);
      return [];
    }
    const disks = wishesOf(op).map((wish) => diskOf(model, op.slot, wish));
    if (vbddKilled) shake(disks);
    return [{ disks, outcome, orphan: dies(ops, op.slot) }];
  });
  const wrong = judgeAttempts(model, before, attempts);
  if (wrong !== undefined) assert.fail(wrong);
}

function dies(ops: readonly Op[], slot: Slot): boolean {
  return ops.some((op) => op.op === 'end' && op.how === 'crash' && op.slot === slot);
}

/** What an operation has made of the model. */
export function apply(model: Model, op: Op, outcome: Outcome, ops: readonly Op[]): void {
  switch (op.op) {
    case 'create':
    case 'attach':
      if (outcome !== 'ok') {
        if (op.op === 'create') model.guests.delete(op.slot);
        return;
      }
      for (const wish of wishesOf(op)) {
        const disk = { ...diskOf(model, op.slot, wish), leaving: dies(ops, op.slot) };
        model.disks.set(keyOf(op.slot, wish.vdev), disk);
      }
      return;
    case 'detach':
      if (outcome === 'ok') model.disks.delete(keyOf(op.slot, op.vdev));
      return;
    case 'unforeign':
      model.disks.delete(keyOf(op.kind, 'xvda'));
      return;
    case 'end': {
      const guest = model.guests.get(op.slot);
      if (guest !== undefined) guest.alive = false;
      const own = [...model.disks].filter(([, disk]) => disk.holder === op.slot);
      for (const [key, disk] of own) {
        if (op.how === 'crash') disk.leaving = true;
        else model.disks.delete(key);
      }
      if (op.how !== 'crash') model.guests.delete(op.slot);
      return;
    }
    default:
  }
}

/** vbdd stops, or starts, with nothing else going on. */
export function vbddCommand(what: 'stop' | 'start'): HistoryCommand {
  return {
    check: (model) => model.vbdd === (what === 'stop'),
    async run(model, play) {
      await play.site.vbdd[what]();
      model.vbdd = what === 'start';
      if (what === 'stop') shake(model.disks.values());
      if (what === 'start') rememberDead(model);
      await settle(play, model);
    },
    toString: () => `vbdd: ${what}`,
  };
}

/** The sweep finds nothing to do. */
export function sweepCommand(): HistoryCommand {
  return {
    check: (model) => model.vbdd,
    async run(model, play) {
      await play.site.vbdd.inside?.sweep();
      await settle(play, model);
    },
    toString: () => 'vbdd sweeps',
  };
}

/** xenstored goes away and comes back, with everything still in it. */
export function blinkCommand(forMs: number): HistoryCommand {
  return {
    check: () => true,
    async run(model, play) {
      const { server, host } = play.site;
      server.goAway();
      await sleep(forMs);
      server.comeBack();
      for (;;) {
        const back = await host.store.read('/local/domain/0/name').catch(() => undefined);
        if (back !== undefined) break;
        await sleep(5);
      }
      if (model.vbdd) await play.site.vbdd.inside?.sweep();
      forgetDead(model);
      await settle(play, model);
    },
    toString: () => `xenstored is away for ${forMs} ms`,
  };
}
