/**
 * The embedded xenstored against Debian's C xenstored: the same requests by dom0 and by a guest get
 * the same replies and the same events, in the same order.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { needsXenstored } from '../peers/xenstored.ts';
import { searching } from '../property.ts';
import { openRaw, type RawClient, type RequestName } from './raw-client.ts';
import { embeddedInMemory, real, type Subject } from './stores.ts';

const GUEST = 5;

interface Step {
  /** Who asks. */
  readonly who: 'dom0' | 'guest';
  readonly name: RequestName;
  readonly path: string;
  readonly rest: string;
  /** In its transaction, when it has one. */
  readonly within: boolean;
}

/** A world of few names, so that steps meet. */
const path = fc
  .tuple(
    fc.constantFrom('/s', `/local/domain/${GUEST}`, `/local/domain/${GUEST}/ro`),
    fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 3 }),
  )
  .map(([root, names]) => [root, ...names].join('/'));
const permission = fc.tuple(fc.constantFrom('n', 'r', 'w', 'b'), fc.constantFrom(0, GUEST));
const rests: Partial<Record<RequestName, fc.Arbitrary<string>>> = {
  write: fc.constantFrom('', '1', 'value'),
  setPerms: fc
    .array(permission, { minLength: 1, maxLength: 3 })
    .map((all) => all.map(([access, domid]) => `${access}${domid}\0`).join('')),
  watch: fc.constantFrom('t1\0', 't2\0'),
  unwatch: fc.constantFrom('t1\0', 't2\0'),
  directoryPart: fc.constantFrom('0\0', '2\0'),
};
const weights: [RequestName, number][] = [
  ['write', 8],
  ['read', 4],
  ['mkdir', 3],
  ['rm', 4],
  ['directory', 3],
  ['getPerms', 2],
  ['setPerms', 4],
  ['watch', 3],
  ['unwatch', 1],
  ['transactionStart', 3],
  ['transactionEnd', 3],
  ['resetWatches', 1],
];

const step: fc.Arbitrary<Step> = fc.oneof(
  ...weights.map(([name, weight]) => ({
    weight,
    arbitrary: fc.record(
      {
        who: fc.constantFrom<'dom0' | 'guest'>('dom0', 'guest'),
        name: fc.constant(name),
        path,
        rest: rests[name] ?? fc.constant(''),
        within: fc.boolean(),
      },
      { noNullPrototype: true },
    ),
  })),
);

interface Side {
  readonly subject: Subject;
  readonly dom0: RawClient;
  readonly guest: RawClient;
}

async function openSide(start: () => Promise<Subject>): Promise<Side> {
  const subject = await start();
  await subject.introduce(GUEST);
  const dom0 = await openRaw(subject.connect(0));
  return { subject, dom0, guest: await openRaw(subject.connect(GUEST)) };
}

/** Begins with the same tree: one place for dom0, the guest's own, and one it may read. */
async function prepare({ dom0, guest }: Side): Promise<void> {
  const home = `/local/domain/${GUEST}`;
  const setUp: [RequestName, string][] = [
    ['rm', '/s\0'],
    ['rm', '/local\0'],
    ['write', `${home}/ro/a\0given`],
    ['setPerms', `${home}\0n${GUEST}\0`],
    ['setPerms', [`${home}/ro`, 'n0', `r${GUEST}`, ''].join('\0')],
    ['write', '/s/a\0seen'],
  ];
  for (const client of [dom0, guest]) await client.ask('resetWatches', '\0');
  for (const [name, payload] of setUp) await dom0.ask(name, payload);
  for (const client of [dom0, guest]) client.takeLog();
}

/** Carries out the steps; returns what each of the two was told. */
async function play(
  side: Side,
  steps: readonly Step[],
): Promise<{ dom0: string[]; guest: string[] }> {
  await prepare(side);
  const told = { dom0: [] as string[], guest: [] as string[] };
  const open = { dom0: 0, guest: 0 };
  const collect = (): void => {
    for (const who of ['dom0', 'guest'] as const) told[who].push(...side[who].takeLog());
  };
  for (const { who, name, path, rest, within } of steps) {
    const client = side[who];
    const transaction = within ? open[who] : 0;
    if (name === 'transactionStart') {
      if (open[who] === 0) open[who] = await client.begin();
      // Each numbers its transactions as it likes.
      client.takeLog();
    } else if (name === 'transactionEnd') {
      await client.ask(name, within ? 'T\0' : 'F\0', open[who]);
      open[who] = 0;
    } else if (name === 'resetWatches') {
      await client.ask(name, '\0');
      open[who] = 0;
    } else {
      await client.ask(name, `${path}\0${rest}`, transaction);
    }
    // An event of the one may come after the reply to the other.
    for (const each of [side.dom0, side.guest]) await each.ask('read', '/\0');
    collect();
  }
  for (const who of ['dom0', 'guest'] as const) {
    if (open[who] !== 0) await side[who].ask('transactionEnd', 'F\0', open[who]);
  }
  collect();
  return told;
}

describe('the embedded xenstored and C xenstored', needsXenstored('xenstored'), () => {
  let embedded: Side;
  let debian: Side;
  before(async () => {
    embedded = await openSide(embeddedInMemory);
    debian = await openSide(() => real('xenstored'));
  });
  after(async () => {
    for (const side of [embedded, debian]) {
      await side?.dom0[Symbol.asyncDispose]();
      await side?.guest[Symbol.asyncDispose]();
      await side?.subject[Symbol.asyncDispose]();
    }
  });

  test('answer the same to whatever is asked of them', async (t) => {
    let runs = 0;
    const property = fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 40 }),
      async (steps) => {
        runs++;
        // The parts' generations are each one's own.
        const known = steps.filter(({ name }) => name !== 'directoryPart');
        assert.deepEqual(await play(embedded, known), await play(debian, known));
      },
    );
    await fc.assert(property, searching(t, 1000, Number(process.env['VBDKIT_SEARCH_MS'] ?? 6000)));
    t.diagnostic(`${runs} histories`);
  });
});
