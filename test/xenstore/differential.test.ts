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
  /** In its transaction, when it has one; ending one, committing it. */
  readonly within: boolean;
  /** Names the path as seen from its home, where that can be. */
  readonly relative: boolean;
}

/** A world of few names, so that steps meet: dom0's, the guest's, and what the guest may read. */
const HOME = `/local/domain/${GUEST}`;
const path = fc
  .tuple(
    fc.constantFrom('/s', HOME, `${HOME}/ro`),
    fc.constantFrom('', '/a', '/a', '/a/b', '/b', '/a/b/c'),
  )
  .map(([root, rest]) => root + rest);
const permission = fc.tuple(fc.constantFrom('n', 'r', 'w', 'b'), fc.constantFrom(0, GUEST));
const rests: Partial<Record<RequestName, fc.Arbitrary<string>>> = {
  write: fc.constantFrom('', '1', 'value'),
  setPerms: fc
    .array(permission, { minLength: 1, maxLength: 3 })
    .map((all) => all.map(([access, domid]) => `${access}${domid}\0`).join('')),
  watch: fc.constantFrom('1\0', '2\0'),
  unwatch: fc.constantFrom('1\0', '2\0'),
};
const weights: [RequestName, number][] = [
  ['write', 9],
  ['read', 4],
  ['mkdir', 3],
  ['rm', 5],
  ['directory', 3],
  ['getPerms', 3],
  ['setPerms', 5],
  ['watch', 6],
  ['unwatch', 1],
  ['transactionStart', 4],
  ['transactionEnd', 4],
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
        within: fc.constantFrom(true, true, false),
        relative: fc.boolean(),
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
  const setUp: [RequestName, string][] = [
    ['rm', '/s\0'],
    ['rm', '/local\0'],
    ['write', `${HOME}/ro/a\0given`],
    ['setPerms', `${HOME}\0n${GUEST}\0`],
    ['setPerms', [`${HOME}/ro`, 'n0', `r${GUEST}`, ''].join('\0')],
    ['write', '/s/a\0seen'],
  ];
  for (const client of [dom0, guest]) await client.ask('resetWatches', '\0');
  for (const [name, payload] of setUp) await dom0.ask(name, payload);
  for (const client of [dom0, guest]) client.takeLog();
}

/** What one connection was told, and the transaction that it has open. */
interface Actor {
  readonly client: RawClient;
  readonly told: { text: string }[];
  /** 0 when there is none. */
  transaction: number;
  /** Replies within the transaction, in `told` already. */
  within: { text: string }[];
}

/** Carries out the steps; returns what each of the two was told. */
async function play(side: Side, steps: readonly Step[]): Promise<Record<string, string[]>> {
  await prepare(side);
  const actors: Record<Step['who'], Actor> = {
    dom0: { client: side.dom0, told: [], transaction: 0, within: [] },
    guest: { client: side.guest, told: [], transaction: 0, within: [] },
  };
  for (const step of steps) {
    const actor = actors[step.who];
    const from = actor.told.length;
    await carryOut(actor, step);
    // An event of the one may come after the reply to the other.
    for (const { client } of Object.values(actors)) await client.ask('read', '/\0');
    for (const { client, told } of Object.values(actors)) {
      for (const text of client.takeLog()) told.push({ text });
    }
    const reply = actor.told.slice(from).find(({ text }) => !text.startsWith('watchEvent'));
    if (step.within && actor.transaction !== 0 && reply !== undefined) actor.within.push(reply);
  }
  for (const actor of Object.values(actors)) await endTransaction(actor, 'F');
  return Object.fromEntries(
    Object.entries(actors).map(([who, { told }]) => [who, told.map(({ text }) => text)]),
  );
}

async function carryOut(
  actor: Actor,
  { who, name, path, rest, within, relative }: Step,
): Promise<void> {
  const { client } = actor;
  if (name === 'transactionStart') {
    if (actor.transaction === 0) actor.transaction = await client.begin();
    // Each numbers its transactions as it likes.
    client.takeLog();
  } else if (name === 'transactionEnd') {
    await endTransaction(actor, within ? 'T' : 'F');
  } else if (name === 'resetWatches') {
    await client.ask(name, '\0');
    forgetReplies(actor);
  } else {
    const own = relative && who === 'guest' && path.startsWith(`${HOME}/`);
    const given = own ? path.slice(HOME.length + 1) : path;
    // C xenstored sends one event for two watches of one token, when it happens to have both.
    const token = name === 'watch' || name === 'unwatch' ? path : '';
    await client.ask(name, `${given}\0${token}${rest}`, within ? actor.transaction : 0);
  }
}

async function endTransaction(actor: Actor, how: 'T' | 'F'): Promise<void> {
  const reply = await actor.client.ask('transactionEnd', `${how}\0`, actor.transaction);
  if (how === 'T' && reply === 'transactionEnd OK|') actor.within = [];
  forgetReplies(actor);
}

/** A transaction that comes to nothing may see a torn tree; what it saw is nobody's concern. */
function forgetReplies(actor: Actor): void {
  for (const reply of actor.within) reply.text = 'in vain';
  actor.within = [];
  actor.transaction = 0;
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

  test('answer the same where chance seldom leads', async () => {
    const dom0 = (name: RequestName, path: string, rest = ''): Step => ({
      who: 'dom0',
      name,
      path,
      rest,
      within: true,
      relative: false,
    });
    const readable = 'n0\0r5\0';
    const histories: Step[][] = [
      // Written, then removed with its parent, in one transaction.
      [
        dom0('watch', '/s', '1\0'),
        dom0('watch', '/s/a/b', '1\0'),
        dom0('write', '/s/a/b', '1'),
        dom0('transactionStart', '/s'),
        dom0('write', '/s/a/b', 'value'),
        dom0('rm', '/s/a'),
        dom0('transactionEnd', '/s'),
      ],
      // Hidden from the guest, or removed, in a transaction: it could read it before.
      [
        dom0('setPerms', '/s/a', readable),
        { ...dom0('watch', '/s', '1\0'), who: 'guest' },
        dom0('transactionStart', '/s'),
        dom0('setPerms', '/s/a', 'n0\0'),
        dom0('transactionEnd', '/s'),
        dom0('setPerms', '/s/a', readable),
        dom0('transactionStart', '/s'),
        dom0('rm', '/s/a'),
        dom0('transactionEnd', '/s'),
      ],
    ];
    for (const steps of histories) {
      const told = await play(embedded, steps);
      assert.ok(
        Object.values(told)
          .flat()
          .filter((text) => text.startsWith('watch')).length > 3,
      );
      assert.deepEqual(told, await play(debian, steps));
    }
  });

  // Last, for at the end of its time it stops in the middle of a history.
  test('answer the same to whatever is asked of them', async (t) => {
    let runs = 0;
    const property = fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 50, size: 'max' }),
      async (steps) => {
        runs++;
        assert.deepEqual(await play(embedded, steps), await play(debian, steps));
      },
    );
    await fc.assert(
      property,
      searching(t, 100_000, Number(process.env['VBDKIT_SEARCH_MS'] ?? 6000)),
    );
    t.diagnostic(`${runs} histories`);
  });
});
