/** Random histories of a host with a vbdd, and their end: then nobody has anything, and outsiders say so. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import { settle } from './history-checks.ts';
import { type Model, newModel, type Op, paths, slots, vdevs, type Wish } from './history-model.ts';
import { perform, type Play } from './history-play.ts';
import type { Site } from './history-site.ts';
import {
  apply,
  blinkCommand,
  type HistoryCommand,
  type Meanwhile,
  stepCommand,
  sweepCommand,
  vbddCommand,
} from './history-steps.ts';
import { loopsBelow, openPaths } from './outsiders.ts';

const slot = fc.constantFrom(...slots);
const vdev = fc.constantFrom(...vdevs);
const mode = fc.oneof(
  { arbitrary: fc.constantFrom('r', 'w'), weight: 8 },
  { arbitrary: fc.constant('w!'), weight: 1 },
) as fc.Arbitrary<Wish['mode']>;
const path = fc.constantFrom<Wish['path'][]>('a.img', 'a.img', 'b.img', ...paths);
const wish = fc.record({ vdev, path, mode });
/** A config cannot say `w!`. */
const configured = fc.uniqueArray(
  fc.record({ vdev, path, mode: fc.constantFrom<Wish['mode'][]>('r', 'w') }),
  { selector: (disk) => disk.vdev, maxLength: 3 },
);
const op: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      op: fc.constant('create' as const),
      slot,
      disks: configured,
      beside: fc.option(fc.record({ slot, as: fc.constantFrom('half', 'stub') }), {
        nil: undefined,
        freq: 3,
      }),
    }),
  },
  { weight: 6, arbitrary: fc.record({ op: fc.constant('attach' as const), slot, wish }) },
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constant('detach' as const), slot, vdev, force: fc.boolean() }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('end' as const),
      slot,
      how: fc.constantFrom('shutdown', 'power off', 'destroy', 'crash', 'crash'),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constantFrom('foreign' as const, 'unforeign' as const),
      kind: fc.constantFrom('qdisk' as const, 'block-iscsi' as const),
      mode: fc.constantFrom('r' as const, 'w' as const),
    }),
  },
  { weight: 1, arbitrary: fc.constant<Op>({ op: 'replace' }) },
);
const ms = fc.integer({ min: 0, max: 12 });

function stepsWith(accident: fc.Arbitrary<'killed' | 'cut off'>): fc.Arbitrary<HistoryCommand> {
  const fate = fc.oneof(
    { weight: 5, arbitrary: fc.constant<Meanwhile>({ what: 'nothing' }) },
    { weight: 2, arbitrary: fc.record({ what: accident, afterMs: ms, forMs: ms }) },
  );
  const ops = fc.array(op, { minLength: 1, maxLength: 4 });
  return fc.record({ ops, meanwhile: fate, settles: fc.boolean() }).map(stepCommand);
}

/** More often asked to start than to stop: it is down for a few steps only. */
const vbdd = fc.constantFrom('stop' as const, 'start' as const, 'start' as const).map(vbddCommand);

/** Histories of up to `most` steps, with a vbdd in this process: it may be cut off, too. */
export function histories(most: number): fc.Arbitrary<Iterable<HistoryCommand>> {
  const step = stepsWith(fc.constantFrom('killed', 'cut off'));
  const blink = ms.map((each) => blinkCommand(each * 3));
  const commands = [step, step, step, step, vbdd, fc.constant(sweepCommand()), blink];
  return fc.commands(commands, { maxCommands: most, size: 'max' });
}

/** Histories of up to `most` steps, with a vbdd that is a process: it can only be killed. */
export function processHistories(most: number): fc.Arbitrary<Iterable<HistoryCommand>> {
  const step = stepsWith(fc.constant('killed'));
  return fc.commands([step, step, step, vbdd], { maxCommands: most, size: 'max' });
}

/** Plays a history to its end: then nobody has anything, and outsiders say so. */
export async function playHistory(
  startSite: () => Promise<Site>,
  commands: Iterable<HistoryCommand>,
): Promise<void> {
  await using site = await startSite();
  const play: Play = { site, guests: new Map(), foreign: new Map() };
  const model = newModel();
  try {
    await fc.asyncModelRun(() => ({ model, real: play }), commands);
    await endHistory(model, play);
  } finally {
    // One that ends wrong leaves nothing to those that come after it.
    for (const loop of play.foreign.values()) loop[Symbol.dispose]();
  }
}

async function endHistory(model: Model, play: Play): Promise<void> {
  const { site } = play;
  if (!model.vbdd) await vbddCommand('start').run(model, play);
  await settle(play, model);
  const ends: Op[] = [
    ...[...model.guests.keys()].map((slot) => ({ op: 'end', slot, how: 'destroy' }) as const),
    ...[...play.foreign.keys()].map((kind) => ({ op: 'unforeign', kind }) as const),
  ];
  for (const op of ends) {
    assert.equal(await perform(play, model, op), 'ok');
    apply(model, op, 'ok', ends);
  }
  await settle(play, model);
  for (const kind of ['vbd', 'qdisk']) {
    const path = `/local/domain/0/backend/${kind}`;
    assert.deepEqual((await site.host.store.directory(path)) ?? [], [], `left in ${path}`);
  }
  await site.vbdd.stop();
  // What stands there for a device of the host's own is all there is.
  assert.deepEqual(
    loopsBelow(site.dir).map(({ tag }) => tag),
    ['c'],
  );
  assert.deepEqual([...openPaths('self', site.dir)], [[site.device, 1]]);
}
