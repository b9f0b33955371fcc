/** Who may hold a disk beside whom: the whole table, every relation, every sentence. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Member, Mode } from '../../src/disk/identity.ts';
import {
  type Holder,
  judge,
  mayShare,
  overlap,
  relationOf,
  type VmFacts,
  type Who,
} from '../../src/disk/sharing.ts';

function member(mode: Mode, identity = 'file:8:1/12', path = '/srv/a.img'): Member {
  return { identity, stack: [identity], mode, path };
}

function guest(domid: number, mode: Mode, path?: string): Holder {
  const who = { type: 'guest', domid, devid: 51712, vdev: 'xvda', kind: 'vbd' } as const;
  return { key: `backend/vbd/${domid}/51712`, who, members: [member(mode, undefined, path)] };
}

function vmOf(domid: number): VmFacts {
  return { domid, name: `web${domid}`, vm: `/vm/${domid}` };
}

/** Asked mode, held mode, allowed among strangers; within one VM everything is. */
const rows: readonly [Mode, Mode, boolean][] = [
  ['r', 'r', true],
  ['r', 'w', false],
  ['r', 'w!', true],
  ['w', 'r', false],
  ['w', 'w', false],
  ['w', 'w!', false],
  ['w!', 'r', true],
  ['w!', 'w', true],
  ['w!', 'w!', true],
];

for (const [asked, held, allowed] of rows) {
  test(`${asked} beside ${held}: ${allowed ? 'allowed' : 'refused'} among strangers`, () => {
    assert.equal(mayShare(asked, held, 'stranger'), allowed);
    assert.equal(mayShare(asked, held, 'same vm'), true);
    const others = [guest(7, held)];
    const verdict = judge({ members: [member(asked)], vm: vmOf(8) }, others, vmOf);
    assert.equal(verdict === undefined, allowed);
    const own = judge({ members: [member(asked)], vm: vmOf(7) }, others, vmOf);
    assert.equal(own, undefined);
  });
}

/** Asked mode, whether this host writes, allowed. */
const hostRows: readonly [Mode, boolean, boolean][] = [
  ['r', false, true],
  ['r', true, false],
  ['w', false, false],
  ['w', true, false],
  ['w!', false, true],
  ['w!', true, true],
];

for (const [asked, writing, allowed] of hostRows) {
  const kind = writing ? 'writable' : 'read-only';
  test(`${asked} beside a ${kind} use of this host: ${allowed ? 'allowed' : 'refused'}`, () => {
    for (const use of ['mount', 'swap', 'mapping'] as const) {
      const who = { type: 'host', use, where: '/mnt' } as const;
      const holder = { key: 'h', who, members: [member(writing ? 'w' : 'r')] };
      for (const vm of [vmOf(7), { domid: 0, vm: '/vm/0' }, undefined]) {
        const verdict = judge({ members: [member(asked)], vm }, [holder], vmOf);
        assert.equal(verdict === undefined, allowed);
      }
    }
  });
}

const relations: readonly [string, VmFacts, VmFacts, boolean][] = [
  ['two guests', { domid: 7, vm: '/vm/a' }, { domid: 8, vm: '/vm/b' }, false],
  ['one domain', { domid: 7 }, { domid: 7 }, true],
  ['a local migration', { domid: 7, vm: '/vm/a' }, { domid: 8, vm: '/vm/a' }, true],
  [
    'a local migration as xend names it',
    { domid: 7, vm: '/vm/a' },
    { domid: 8, vm: '/vm/a-1' },
    true,
  ],
  ['uuids that end alike', { domid: 7, vm: '/vm/a1' }, { domid: 8, vm: '/vm/a' }, false],
  [
    'a guest and its stub domain',
    { domid: 7, vm: '/vm/a' },
    { domid: 8, vm: '/vm/s', targetVm: '/vm/a' },
    true,
  ],
  [
    'stub domains of both halves',
    { domid: 9, vm: '/vm/s', targetVm: '/vm/a' },
    { domid: 8, vm: '/vm/t', targetVm: '/vm/a-1' },
    true,
  ],
  [
    'stub domains of two guests',
    { domid: 9, vm: '/vm/s', targetVm: '/vm/a' },
    { domid: 8, vm: '/vm/t', targetVm: '/vm/b' },
    false,
  ],
  ['a guest whose vm is unknown', { domid: 7, vm: '/vm/a' }, { domid: 8 }, false],
  ['two guests whose vm is unknown', { domid: 7 }, { domid: 8 }, false],
  ['two guests with an empty vm', { domid: 7, vm: '' }, { domid: 8, vm: '' }, false],
];

for (const [name, one, other, same] of relations) {
  test(`${name}: ${same ? 'the same VM' : 'strangers'}`, () => {
    assert.equal(relationOf(one, other), same ? 'same vm' : 'stranger');
    assert.equal(relationOf(other, one), same ? 'same vm' : 'stranger');
  });
}

const g: Who = { type: 'guest', domid: 7, devid: 51712, vdev: 'xvda', kind: 'qdisk' };
const [mount, swap, mapping] = (['mount', 'swap', 'mapping'] as const).map((use): Who => {
  return {
    type: 'host',
    use,
    where: { mount: '/mnt', swap: '/dev/sdb1', mapping: 'vg-root' }[use],
  };
}) as [Who, Who, Who];
const lease: Who = { type: 'loop lease', pid: 123, name: 'mke2fs' };
const a = '/srv/a.img';

/** Asked mode, who holds it, in which mode, by which path; the sentence. */
const sentences: readonly [Mode, Who, Mode, string, string][] = [
  [
    'r',
    g,
    'w',
    a,
    `${a} is in use by guest web7 (domid 7) as xvda for writing — detach it there first`,
  ],
  [
    'w',
    g,
    'w',
    '/srv/hard-link.img',
    `${a} is in use by guest web7 (domid 7) as xvda for writing, as /srv/hard-link.img — detach it there first`,
  ],
  [
    'w',
    g,
    'r',
    a,
    `${a} is in use by guest web7 (domid 7) as xvda for reading — detach it there first, or ask for it read-only`,
  ],
  [
    'w',
    g,
    'w!',
    a,
    `${a} is in use by guest web7 (domid 7) as xvda for shared writing — detach it there first, or ask for it read-only`,
  ],
  [
    'r',
    mount,
    'w',
    '/dev/loop5',
    `${a} is in use by this host, mounted at /mnt for writing, as /dev/loop5 — unmount it first`,
  ],
  [
    'w',
    mount,
    'r',
    '/dev/loop5',
    `${a} is in use by this host, mounted at /mnt for reading, as /dev/loop5 — unmount it first, or ask for it read-only`,
  ],
  [
    'w',
    swap,
    'w',
    '/dev/sdb1',
    `${a} is in use by this host as swap space, as /dev/sdb1 — swapoff /dev/sdb1 first`,
  ],
  [
    'w',
    mapping,
    'w',
    a,
    `${a} is in use by this host as a part of vg-root for writing — deactivate vg-root first`,
  ],
  [
    'w',
    lease,
    'w',
    a,
    `${a} is in use by mke2fs (pid 123) through a loop device for writing — end that first`,
  ],
];

for (const [asked, who, mode, path, sentence] of sentences) {
  test(sentence, () => {
    const holder = { key: 'k', who, members: [member(mode, undefined, path)] };
    const failure = judge({ members: [member(asked)], vm: vmOf(8) }, [holder], vmOf);
    assert.equal(failure?.message, sentence);
    assert.equal(failure?.kind, 'in-use');
  });
}

test('a refusal carries its facts, for tools', () => {
  const failure = judge({ members: [member('w')], vm: vmOf(8) }, [guest(7, 'w', '/b')], vmOf);
  assert.deepEqual(failure?.facts, {
    path: '/srv/a.img',
    holderPath: '/b',
    mode: 'w',
    domid: 7,
    vdev: 'xvda',
    guest: 'web7',
  });
});

test('a guest that the store no longer names is told by its number', () => {
  const failure = judge({ members: [member('w')] }, [guest(7, 'w')], (domid) => ({ domid }));
  const named = 'in use by the guest with domid 7 as xvda';
  assert.ok(failure?.message.includes(named), failure?.message);
});

test('the first holder that forbids it is named; those of the same VM and elsewhere are passed over', () => {
  const elsewhere = { ...guest(5, 'w'), members: [member('w', 'file:8:1/99')] };
  const holders = [guest(7, 'w'), elsewhere, guest(3, 'r'), guest(4, 'w'), guest(6, 'w')];
  const failure = judge({ members: [member('r')], vm: vmOf(7) }, holders, vmOf);
  assert.equal(failure?.facts['domid'], 4);
  assert.equal(
    judge({ members: [member('r')], vm: vmOf(7) }, holders.slice(0, 3), vmOf),
    undefined,
  );
});

test('a parent of one image may be the parent of others, and not a disk that someone writes', () => {
  const base = member('r', 'file:8:1/1', '/srv/base.vhd');
  const child = [member('w', 'file:8:1/2', '/srv/child.vhd'), base];
  const brother: Holder = { ...guest(7, 'w'), members: [member('w', 'file:8:1/3', '/x'), base] };
  assert.equal(judge({ members: child, vm: vmOf(8) }, [brother], vmOf), undefined);
  const writer = { ...guest(7, 'w'), members: [{ ...base, mode: 'w' } as const] };
  const failure = judge({ members: child, vm: vmOf(8) }, [writer], vmOf);
  assert.equal(failure?.facts['path'], '/srv/base.vhd');
});

test('a disk overlaps with its partitions and what stands on them, and brothers do not overlap', () => {
  const on = (...stack: string[]): Member => ({
    identity: stack[0] ?? '',
    stack,
    mode: 'r',
    path: '',
  });
  const disk = on('disk');
  const [one, two] = [on('part1', 'disk'), on('part2', 'disk')];
  const [left, right] = [on('lv1', 'part1', 'disk'), on('lv2', 'part1', 'disk')];
  for (const each of [disk, one, two, left, right]) {
    assert.equal(overlap(disk, each), true);
    assert.equal(overlap(each, disk), true);
    assert.equal(overlap(each, each), true);
  }
  assert.equal(overlap(one, left), true);
  assert.equal(overlap(right, one), true);
  assert.equal(overlap(one, two), false);
  assert.equal(overlap(left, right), false);
  assert.equal(overlap(two, left), false);
});
