/** The index of holders against a list that is searched from end to end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { createHoldings } from '../../src/disk/holdings.ts';
import type { Member, Mode } from '../../src/disk/identity.ts';
import {
  besideStranger,
  type Holder,
  judge,
  overlap,
  type VmFacts,
  type Who,
} from '../../src/disk/sharing.ts';
import { searching } from '../property.ts';

/** A small host: disks with partitions, volumes, a mirror, loops on files and on each other. */
const stacks: readonly (readonly string[])[] = [
  ['disk1'],
  ['part1', 'disk1'],
  ['part2', 'disk1'],
  ['volume1', 'part1', 'disk1'],
  ['volume2', 'part1', 'disk1'],
  ['disk2'],
  ['mirror', 'part2', 'disk2', 'disk1'],
  ['file1'],
  ['loop1', 'file1'],
  ['loop2', 'loop1', 'file1'],
  ['file2'],
];

const names = Array.from({ length: 12 }, (_, index) => `holder ${index}`);
const mode = fc.constantFrom<Mode>('r', 'w', 'w!');
const member: fc.Arbitrary<Member> = fc
  .tuple(fc.constantFrom(...stacks), mode)
  .map(([stack, held]) => ({ identity: stack[0] ?? '', stack, mode: held, path: stack[0] ?? '' }));
const who: fc.Arbitrary<Who> = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 6 }).map(guest) },
  fc.constant<Who>({ type: 'host', use: 'mount', where: '/mnt' }),
  fc.constant<Who>({ type: 'loop lease', pid: 1, name: 'init' }),
);
const holder: fc.Arbitrary<Holder> = fc.record({
  key: fc.constantFrom(...names),
  who,
  members: fc.array(member, { minLength: 1, maxLength: 3 }),
});
const change = fc.oneof(
  { weight: 3, arbitrary: holder.map((added) => ({ added })) },
  fc.constantFrom(...names).map((removed) => ({ removed })),
);

function guest(domid: number): Who {
  return { type: 'guest', domid, devid: 51712, vdev: 'xvda', kind: 'vbd' };
}

/** Guests 1 and 2 are one VM, 3 is the stub domain of 4, the others are strangers. */
function vmOf(domid: number): VmFacts {
  return {
    domid,
    vm: `/vm/${domid === 2 ? 1 : domid}`,
    ...(domid === 3 ? { targetVm: '/vm/4' } : {}),
  };
}

function keysOf(holders: Iterable<Holder>): string[] {
  return [...holders].map(({ key }) => key).sort();
}

test('the index answers as a walk over all holders would, after any history', (t) => {
  const law = (changes: ({ added: Holder } | { removed: string })[], asked: Member[]): void => {
    const holdings = createHoldings();
    const model = new Map<string, Holder>();
    for (const each of changes) {
      if ('added' in each) {
        holdings.add(each.added);
        model.set(each.added.key, each.added);
      } else {
        holdings.remove(each.removed);
        model.delete(each.removed);
      }
    }
    assert.equal(holdings.size, model.size);
    const all = [...model.values()];
    for (const one of asked) {
      const some = (filter: (held: Member) => boolean): string[] =>
        keysOf(
          all.filter(({ members }) => members.some((held) => overlap(one, held) && filter(held))),
        );
      assert.deepEqual(
        keysOf(holdings.overlapping(one)),
        some(() => true),
      );
      assert.deepEqual(
        keysOf(holdings.rivals(one)),
        some((held) => !besideStranger[one.mode][held.mode]),
      );
      const hosts = holdings.overlapping(one).filter((each) => each.who.type === 'host');
      assert.deepEqual(keysOf(holdings.hostUsers(one)), keysOf(hosts));
    }
    for (const domid of [1, 3, 5]) {
      const question = { members: asked, vm: vmOf(domid) };
      const rivals = asked.flatMap((one) => holdings.rivals(one));
      const refused = judge(question, all, vmOf) !== undefined;
      assert.equal(judge(question, rivals, vmOf) !== undefined, refused);
    }
  };
  const asked = fc.array(member, { minLength: 1, maxLength: 3 });
  const property = fc.property(fc.array(change, { maxLength: 30 }), asked, law);
  fc.assert(property, searching(t, 2000));
});

test('a holder added again takes the place of what it held before', () => {
  const holdings = createHoldings();
  const one: Member = { identity: 'x', stack: ['x'], mode: 'w', path: '/x' };
  const two: Member = { identity: 'y', stack: ['y'], mode: 'w', path: '/y' };
  holdings.add({ key: 'k', who: guest(1), members: [one] });
  holdings.add({ key: 'k', who: guest(1), members: [two] });
  assert.deepEqual(holdings.overlapping(one), []);
  assert.deepEqual(keysOf(holdings.overlapping(two)), ['k']);
  assert.equal(holdings.get('k')?.members[0], two);
  holdings.remove('k');
  holdings.remove('k');
  assert.equal(holdings.size, 0);
  assert.deepEqual(holdings.overlapping(two), []);
});

test('a reader has no rivals among a thousand readers; a writer has them all', () => {
  const holdings = createHoldings();
  const one: Member = { identity: 'x', stack: ['x'], mode: 'r', path: '/x' };
  for (let domid = 1; domid <= 1000; domid++) {
    holdings.add({ key: `${domid}`, who: guest(domid), members: [one] });
  }
  assert.deepEqual(holdings.rivals(one), []);
  assert.deepEqual(holdings.rivals({ ...one, mode: 'w!' }), []);
  assert.equal(holdings.rivals({ ...one, mode: 'w' }).length, 1000);
});
