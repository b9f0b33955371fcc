/** The plan for one disk: a table of situations, and promises that hold in all of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import {
  type BackendNodes,
  parseBackendNodes,
  parseBackendPath,
  parseMode,
  parsePhysicalDevice,
} from '../../src/disk/backend-nodes.ts';
import {
  describeStep,
  type DiskFacts,
  type HeldFacts,
  planDisk,
  type TargetFacts,
} from '../../src/disk/plan.ts';
import { searching } from '../property.ts';

const member = {
  identity: 'file:8:1/5',
  stack: ['file:8:1/5'],
  mode: 'w',
  path: '/a.img',
} as const;
const target: TargetFacts = {
  path: '/a.img',
  kind: 'file',
  format: 'raw',
  member,
  hostShares: false,
};
const held: HeldFacts = {
  kind: 'loop',
  device: { major: 7, minor: 10 },
  devicePath: '/dev/loop10',
  diskSequence: 99,
  member,
};
const nodes: BackendNodes = {
  state: 2,
  online: true,
  script: '/etc/xen/scripts/block-vbd',
  params: '/a.img',
  mode: 'w',
  directIoSafe: false,
  physicalDevice: undefined,
  hotplugStatus: undefined,
  discard: true,
};
const attached = { ...nodes, physicalDevice: '7:a', hotplugStatus: 'connected' };
const unserved: HeldFacts = {
  ...held,
  kind: 'nbd',
  device: { major: 43, minor: 0 },
  devicePath: '/dev/nbd0',
  link: 'down',
};
const onNbd = { ...attached, physicalDevice: '2b:0' };
const fresh: DiskFacts = {
  key: { kind: 'vbd', domid: 3, devid: 51712 },
  nodes,
  ours: true,
  driverDomain: false,
  guest: 'not asked',
  backend: 'unknown',
  held: undefined,
  published: false,
  closingSeen: false,
  refusal: undefined,
  unadoptable: undefined,
  target,
  conflict: undefined,
  graceOver: false,
  closeAsked: false,
};
const conflict = new Failure('in-use', '/a.img is in use');
const gone = new Failure('gone', 'no file is bound to /dev/loop10');

const situations: [what: string, facts: Partial<DiskFacts>, steps: string[]][] = [
  ['a new disk is held', {}, ['hold']],
  ['in state 1 too, before the backend has looked', { nodes: { ...nodes, state: 1 } }, ['hold']],
  ['what is held is told to the store', { held }, ['publish']],
  ['what the store knows is left alone', { held, published: true, nodes: attached }, []],
  [
    'also once the guest is connected',
    { held, published: true, nodes: { ...attached, state: 4 } },
    [],
  ],
  [
    'an nbd device that nobody serves is connected again',
    { held: unserved, published: true, nodes: onNbd },
    ['reconnect'],
  ],
  [
    'also while its guest closes it, which may have something to write',
    { held: unserved, published: true, nodes: { ...onNbd, online: false, state: 5 } },
    ['reconnect'],
  ],
  [
    'once its guest is gone it is disconnected, so that its backend can close',
    { held: unserved, published: true, nodes: onNbd, guest: 'gone' },
    ['sever'],
  ],
  [
    'what is to be given back is not connected first',
    { held: unserved, nodes: { ...onNbd, online: false, state: 6 } },
    ['release'],
  ],
  [
    'what was disconnected stays so',
    { held: { ...unserved, link: 'severed' }, published: true, nodes: onNbd, guest: 'gone' },
    [],
  ],
  ['a disk of another script is only watched', { ours: false }, []],
  ['a conflict is refused', { conflict }, ['refuse']],
  ['a target that cannot be opened is refused', { target: conflict }, ['refuse']],
  ['a refusal gives back first', { held, refusal: conflict }, ['release', 'refuse']],
  ['a refusal is told once', { refusal: conflict, nodes: { ...nodes, hotplugStatus: 'busy' } }, []],
  ['what an earlier vbdd gave is adopted', { nodes: attached }, ['adopt']],
  [
    'a number that was freed before its backend opened it is given anew',
    { nodes: attached, unadoptable: gone, backend: 'not there' },
    ['hold'],
  ],
  [
    'a device that the backend has open but that is not what it was is reported, not replaced',
    { nodes: attached, unadoptable: gone, backend: 'there' },
    ['report'],
  ],
  [
    'a device that someone else holds is reported',
    { nodes: attached, unadoptable: conflict, backend: 'unknown' },
    ['report'],
  ],
  [
    'what was refused stays refused when the reason is gone: nobody expects it any more',
    { nodes: { ...nodes, hotplugStatus: 'busy' } },
    [],
  ],
  ['a closing disk is waited for', { held, nodes: { ...attached, online: false, state: 5 } }, []],
  [
    'a closed one is given back',
    { held, nodes: { ...attached, online: false, state: 6 } },
    ['release'],
  ],
  [
    'a frontend that reconnects keeps it',
    { held, published: true, nodes: { ...attached, state: 6 } },
    [],
  ],
  [
    'in a driver domain its directory goes, too',
    { held, driverDomain: true, nodes: { ...attached, online: false, state: 6 } },
    ['release', 'remove nodes'],
  ],
  ['nodes removed after closing', { held, nodes: undefined, closingSeen: true }, ['release']],
  [
    'nodes removed with their guest',
    { held, published: true, nodes: undefined, guest: 'gone' },
    ['release'],
  ],
  [
    'a store that forgot everything is not believed while the kernel has the device open',
    { held, published: true, nodes: undefined, guest: 'gone', backend: 'there' },
    ['report'],
  ],
  [
    'nodes lost while the guest runs are reported, and the device is kept',
    { held, published: true, nodes: undefined, guest: 'alive' },
    ['report'],
  ],
  [
    'unless no backend has it open',
    { held, published: true, nodes: undefined, guest: 'alive', backend: 'not there' },
    ['release'],
  ],
  ['nodes that vanish in mid-attach', { held, nodes: undefined, guest: 'alive' }, ['release']],
  ["a dead guest's nodes are left to its toolstack", { held, guest: 'gone', nodes: attached }, []],
  ['for a while', { held, guest: 'gone', nodes: attached, graceOver: true }, ['close backend']],
  [
    'then waited for',
    {
      held,
      guest: 'gone',
      nodes: { ...attached, online: false, state: 5 },
      graceOver: true,
      closeAsked: true,
    },
    [],
  ],
  [
    'and removed',
    {
      held,
      guest: 'gone',
      nodes: { ...attached, online: false, state: 5 },
      graceOver: true,
      backend: 'not there',
    },
    ['release', 'remove nodes'],
  ],
  [
    'its closed nodes, too, are removed',
    { guest: 'gone', nodes: { ...attached, online: false, state: 6 }, graceOver: true },
    ['remove nodes'],
  ],
  [
    'a toolstack that only asked the dead guest is helped',
    { held, guest: 'gone', nodes: { ...attached, online: false, state: 5 }, graceOver: true },
    ['close backend'],
  ],
  ['a disk made anew under the same number starts anew', { held, published: true }, ['release']],
  [
    'a foreign hand in physical-device is reported',
    { held, published: true, nodes: { ...attached, physicalDevice: 'fd:1' } },
    ['report'],
  ],
  ['a backend past being given a device is left alone', { nodes: { ...nodes, state: 4 } }, []],
];

for (const [what, facts, steps] of situations) {
  test(`plan: ${what}`, () => {
    const plan = planDisk({ ...fresh, ...facts });
    assert.deepEqual(
      plan.steps.map((step) => step.do),
      steps,
    );
    assert.ok(plan.because.length > 0);
    for (const step of plan.steps) assert.ok(describeStep(step).length > 0);
  });
}

test('what is published is what blkback, libxl and Qubes read', () => {
  const [step] = planDisk({ ...fresh, held }).steps;
  assert.ok(step?.do === 'publish');
  assert.deepEqual(step.values, {
    diskseq: '63',
    'physical-device': '7:a',
    'physical-device-path': '/dev/loop10',
    'hotplug-status': 'connected',
  });
});

const optional = <T>(value: T): fc.Arbitrary<T | undefined> => fc.constantFrom(value, undefined);
const anyNodes = fc.record({
  ...Object.fromEntries(Object.entries(nodes).map(([name, value]) => [name, fc.constant(value)])),
  state: fc.integer({ min: 0, max: 9 }),
  online: fc.boolean(),
  physicalDevice: fc.constantFrom('7:a', '7:b', undefined),
  hotplugStatus: fc.constantFrom('connected', 'busy', 'error', undefined),
}) as unknown as fc.Arbitrary<BackendNodes>;
const anyFacts: fc.Arbitrary<DiskFacts> = fc.record({
  key: fc.constant(fresh.key),
  nodes: fc.option(anyNodes, { nil: undefined }),
  ours: fc.boolean(),
  driverDomain: fc.boolean(),
  guest: fc.constantFrom('alive', 'gone', 'not asked'),
  backend: fc.constantFrom('there', 'not there', 'unknown'),
  held: fc.constantFrom(held, unserved, { ...unserved, link: 'severed' } as const, undefined),
  published: fc.boolean(),
  closingSeen: fc.boolean(),
  refusal: optional(conflict),
  unadoptable: fc.constantFrom(gone, conflict, undefined),
  target: fc.constantFrom(target, conflict, undefined),
  conflict: optional(conflict),
  graceOver: fc.boolean(),
  closeAsked: fc.boolean(),
});

test('in every situation there is a reason, and no step is unsafe', (t) => {
  fc.assert(
    fc.property(anyFacts, (facts) => {
      const { steps, because } = planDisk(facts);
      assert.ok(because.length > 0);
      for (const step of steps) {
        const { nodes: there } = facts;
        if (step.do === 'hold') {
          assert.ok(facts.held === undefined && facts.conflict === undefined);
          assert.ok(
            facts.ours && there?.online === true && (there.state === 1 || there.state === 2),
          );
          assert.ok(facts.refusal === undefined);
        }
        if (step.do === 'release') {
          const seenClosed =
            facts.closingSeen || (there !== undefined && !there.online && there.state === 6);
          const gone = facts.guest === 'gone' && (facts.backend !== 'there' || there?.state === 6);
          const nobody = gone || facts.backend === 'not there';
          const never = !facts.published || facts.refusal !== undefined;
          const anew = there !== undefined && there.physicalDevice === undefined;
          assert.ok(facts.held !== undefined);
          assert.ok(seenClosed || nobody || never || anew, 'released under a running guest');
        }
        if (step.do === 'sever') assert.equal(facts.guest, 'gone');
        if (step.do === 'sever' || step.do === 'reconnect') {
          assert.equal(facts.held?.link, 'down');
        }
        if (step.do === 'remove nodes') {
          const orphan = facts.guest === 'gone' && facts.graceOver;
          assert.ok(orphan || (facts.driverDomain && there?.online === false));
        }
        if (!facts.ours && there !== undefined) assert.fail('a foreign disk is never touched');
      }
    }),
    searching(t, 5000),
  );
});

test('paths, modes and device numbers are read as libxl and blkback write them', () => {
  assert.deepEqual(parseBackendPath('backend/vbd/12/51712'), {
    key: { kind: 'vbd', domid: 12, devid: 51712 },
    leaf: '',
  });
  assert.equal(parseBackendPath('backend/vbd/12/51712/state')?.leaf, 'state');
  assert.equal(parseBackendPath('backend/vbd/12'), undefined);
  assert.deepEqual(['r', 'w', 'w!', '!w', 'ro', ''].map(parseMode), [
    'r',
    'w',
    'w!',
    'w!',
    'r',
    'r',
  ]);
  assert.deepEqual(parsePhysicalDevice('fd:1F'), { major: 253, minor: 31 });
  assert.equal(parsePhysicalDevice('7:'), undefined);
  assert.equal(parseBackendNodes({ params: '/a' }), undefined);
  assert.equal(parseBackendNodes({ state: '1' })?.online, true);
});
