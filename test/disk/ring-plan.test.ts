/** The plan of disks whose backend is vbdkit itself: every state of store, guest and tap has an answer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import { type BackendNodes, parseBackendNodes } from '../../src/disk/backend-nodes.ts';
import { parseFrontendNodes } from '../../src/disk/frontend-nodes.ts';
import { planRing, type RingFacts, type RingStep } from '../../src/disk/ring-plan.ts';
import { searching } from '../property.ts';

const ringNodes = { 'ring-ref': '8', 'event-channel': '3', protocol: 'x86_64-abi' };

/** From state 2 on it was offered, unless said. */
function nodes(
  state: number,
  online = true,
  status: string | undefined = state > 1 ? 'connected' : undefined,
): BackendNodes {
  const values = { state: String(state), online: online ? '1' : '0', mode: 'w', params: 'vhd:/a' };
  const parsed = parseBackendNodes({ ...values, 'hotplug-status': status });
  assert.ok(parsed);
  return parsed;
}

function facts(changes: Partial<RingFacts> & { readonly state?: number }): RingFacts {
  const { state = 1, ...rest } = changes;
  return {
    nodes: nodes(1),
    kernel: 'no',
    frontend: parseFrontendNodes({ ...ringNodes, state: String(state) }),
    newRing: false,
    newMedium: false,
    guest: 'alive',
    tap: 'open',
    paused: false,
    refusal: undefined,
    closingSeen: false,
    driverDomain: false,
    graceOver: false,
    ...rest,
  };
}

const busy = new Failure('in-use', 'a is in use');
const rows: [what: string, given: RingFacts, step: RingStep['do'] | `to ${number}` | undefined][] =
  [
    ['a new disk', facts({ tap: 'nothing' }), 'open'],
    ['an open one', facts({}), 'offer'],
    ['one that was offered', facts({ nodes: nodes(2) }), undefined],
    ['a disk that blkback has', facts({ nodes: nodes(2, true, ''), kernel: 'yes' }), 'unbind'],
    ['one that blkback may still take', facts({ kernel: 'not yet' }), undefined],
    ['one that blkback had', facts({ nodes: nodes(2, true, ''), state: 3 }), 'offer'],
    [
      'one that blkback took from under a guest',
      facts({ nodes: nodes(2), state: 4, tap: 'connected', kernel: 'yes' }),
      'unbind',
    ],
    [
      'a refused one that blkback closes',
      facts({ nodes: nodes(5, false, 'busy'), state: 6, tap: 'nothing', kernel: 'yes' }),
      undefined,
    ],
    ['a guest with a ring', facts({ nodes: nodes(2), state: 3 }), 'connect'],
    ['a ring that is served', facts({ nodes: nodes(2), state: 3, tap: 'connected' }), 'announce'],
    ['a connected disk', facts({ nodes: nodes(4), state: 4, tap: 'connected' }), undefined],
    ['a tap that came anew', facts({ nodes: nodes(4), state: 4, tap: 'nothing' }), 'open'],
    ['its image open again', facts({ nodes: nodes(4), state: 4 }), 'connect'],
    [
      'a guest that is to let go and waits for room',
      facts({ nodes: nodes(5, false), state: 4, tap: 'connected', paused: true }),
      'stop waiting',
    ],
    [
      'another medium in its drive',
      facts({ nodes: nodes(4), state: 4, tap: 'connected', newMedium: true }),
      'change',
    ],
    [
      'a ring that is another’s',
      facts({ nodes: nodes(4), state: 3, tap: 'connected', newRing: true }),
      'disconnect',
    ],
    ['a guest that lets go', facts({ nodes: nodes(4), state: 5, tap: 'connected' }), 'disconnect'],
    ['a guest that closes', facts({ nodes: nodes(4), state: 5 }), 'to 5'],
    ['a guest that has closed', facts({ nodes: nodes(5), state: 6 }), 'to 6'],
    ['a closed disk that stays', facts({ nodes: nodes(6), state: 6 }), undefined],
    ['its guest’s next kernel', facts({ nodes: nodes(6), state: 1 }), 'offer'],
    [
      'a detach, guest attached',
      facts({ nodes: nodes(5, false), state: 4, tap: 'connected' }),
      undefined,
    ],
    [
      'a detach, guest gone',
      facts({ nodes: nodes(5, false), state: 6, tap: 'connected', paused: true }),
      'disconnect',
    ],
    ['a detach, ring gone', facts({ nodes: nodes(5, false), state: 6 }), 'close'],
    ['a detach, image closed', facts({ nodes: nodes(5, false), state: 6, tap: 'nothing' }), 'to 6'],
    [
      'a dead guest',
      facts({ nodes: nodes(4), state: 0, guest: 'gone', tap: 'connected' }),
      'disconnect',
    ],
    ['nodes that are gone', facts({ nodes: undefined, state: 0, tap: 'connected' }), 'disconnect'],
    [
      'nodes that are gone, frontend and guest there',
      facts({ nodes: undefined, state: 4, tap: 'connected' }),
      'report',
    ],
    [
      'a store that knows neither disk nor guest',
      facts({ nodes: undefined, state: 0, guest: 'unknown', tap: 'connected' }),
      'report',
    ],
    [
      'the same after its closing was seen',
      facts({ nodes: undefined, state: 4, tap: 'connected', closingSeen: true }),
      'disconnect',
    ],
    [
      'the same in a tap that serves no ring of it',
      facts({ nodes: undefined, state: 4, guest: 'unknown' }),
      'close',
    ],
    [
      'a dead guest’s nodes, while its toolstack has time',
      facts({ nodes: nodes(6), state: 0, guest: 'gone', tap: 'nothing' }),
      undefined,
    ],
    [
      'a dead guest’s nodes afterwards',
      facts({ nodes: nodes(6), state: 0, guest: 'gone', tap: 'nothing', graceOver: true }),
      'remove nodes',
    ],
    [
      'a detach in a driver domain, image closed',
      facts({ nodes: nodes(6, false), state: 6, tap: 'nothing', driverDomain: true }),
      'remove nodes',
    ],
    ['nothing at all', facts({ nodes: undefined, state: 0, tap: 'nothing' }), undefined],
    ['a refusal', facts({ tap: 'nothing', refusal: busy }), 'refuse'],
    [
      'a told one',
      facts({ tap: 'nothing', refusal: busy, nodes: nodes(2, true, 'busy') }),
      undefined,
    ],
    [
      'one that an earlier vbdd refused',
      facts({ tap: 'nothing', nodes: nodes(2, true, 'busy') }),
      undefined,
    ],
    ['a late one', facts({ refusal: busy }), 'close'],
  ];
for (const [what, given, expected] of rows) {
  test(`${what}: ${expected ?? 'nothing'}`, () => {
    const { step } = planRing(given);
    assert.equal(step?.do === 'move' ? `to ${step.state}` : step?.do, expected);
  });
}

test('a ring that was answered from before is taken up, a new one is not', () => {
  for (const [state, takeUp] of [
    [2, false],
    [4, true],
  ] as const) {
    const { step } = planRing(facts({ nodes: nodes(state), state: 4 }));
    assert.ok(step?.do === 'connect');
    assert.equal(step.takeUp, takeUp);
    const queues = [{ references: [8], port: 3 }];
    assert.deepEqual(step.ring, { queues, protocol: 'x86_64-abi' });
  }
});

const offers: [what: string, nodes: Record<string, string>, says: RegExp | number[]][] = [
  ['one page', ringNodes, [8]],
  [
    'four pages',
    {
      'event-channel': '3',
      'ring-page-order': '2',
      'ring-ref0': '1',
      'ring-ref1': '2',
      'ring-ref2': '3',
      'ring-ref3': '4',
    },
    [1, 2, 3, 4],
  ],
  ['one page by number', { 'event-channel': '3', 'ring-page-order': '0', 'ring-ref0': '7' }, [7]],
  ['five queues', { ...ringNodes, 'multi-queue-num-queues': '5' }, /asks for 5 queues/],
  ['half a queue', { ...ringNodes, 'multi-queue-num-queues': '0.5' }, /asks for 0.5 queues/],
  ['one queue, said', { ...ringNodes, 'multi-queue-num-queues': '1' }, [8]],
  [
    'two queues',
    {
      'multi-queue-num-queues': '2',
      'queue-0/ring-ref': '4',
      'queue-0/event-channel': '5',
      'queue-1/ring-ref': '6',
      'queue-1/event-channel': '7',
    },
    [4, 5, 6],
  ],
  [
    'a queue without a ring',
    { ...ringNodes, 'multi-queue-num-queues': '2' },
    /queue-0.event-channel is no port/,
  ],
  ['no port', { 'ring-ref': '8' }, /event-channel is no port/],
  [
    'a page too few',
    { 'event-channel': '3', 'ring-page-order': '1', 'ring-ref0': '1' },
    /ring-ref1 is no grant/,
  ],
  ['an order of 5', { ...ringNodes, 'ring-page-order': '5' }, /ring-page-order is 5/],
  ['an order of -1', { ...ringNodes, 'ring-page-order': '-1' }, /ring-page-order is -1/],
  ['a reference past 32 bits', { ...ringNodes, 'ring-ref': '4294967296' }, /ring-ref is no grant/],
  ['words', { ...ringNodes, 'event-channel': 'three' }, /event-channel is no port/],
];
for (const [what, given, says] of offers) {
  test(`a frontend that offers ${what}`, () => {
    const { ring } = parseFrontendNodes({ ...given, state: '3' });
    if (Array.isArray(says)) {
      assert.ok(!(ring instanceof Failure));
      const found = ring.queues.flatMap(({ references, port }) => [...references, port]);
      assert.deepEqual(found.slice(0, -1), says);
    } else {
      assert.ok(ring instanceof Failure);
      assert.match(ring.message, says);
    }
  });
}

test('whatever the facts, nothing is served that is not asked for, and every plan comes to rest', (t) => {
  const any = fc.record({
    be: fc.option(fc.tuple(fc.integer({ min: 1, max: 6 }), fc.boolean()), { nil: undefined }),
    fe: fc.nat(6),
    guest: fc.constantFrom('alive' as const, 'gone' as const, 'unknown' as const),
    kernel: fc.constantFrom('yes' as const, 'no' as const, 'not yet' as const),
    flags: fc.tuple(fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean(), fc.boolean()),
    tap: fc.constantFrom('nothing' as const, 'open' as const, 'connected' as const),
    refused: fc.boolean(),
  });
  const play = fc.property(any, ({ be, fe, guest, tap, refused, kernel, flags }) => {
    const [closingSeen, driverDomain, graceOver, newMedium, newRing] = flags;
    let given = facts({
      nodes: be === undefined ? undefined : nodes(...be),
      state: fe,
      guest,
      tap,
      refusal: refused ? busy : undefined,
      kernel,
      paused: tap === 'connected',
      closingSeen,
      driverDomain,
      graceOver,
      newMedium,
      newRing,
    });
    const told = new Set<string>();
    for (;;) {
      const { step } = planRing(given);
      if (step === undefined || step.do === 'report') return;
      assert.ok(!told.has(step.do + JSON.stringify(step)), `${step.do} is done twice`);
      told.add(step.do + JSON.stringify(step));
      if (step.do === 'announce') assert.equal(given.tap, 'connected');
      if (step.do === 'connect') assert.equal(given.kernel, 'no');
      if (step.do === 'open' || step.do === 'connect') {
        assert.ok(given.nodes?.online === true && guest !== 'gone' && !refused);
      }
      given = done(given, step);
    }
  });
  fc.assert(play, searching(t, 2000));
});

/** The facts once a step is done. */
function done(given: RingFacts, step: RingStep): RingFacts {
  const { nodes: before } = given;
  const at = (state: number, status = before?.hotplugStatus): RingFacts =>
    before === undefined ? given : { ...given, nodes: { ...before, state, hotplugStatus: status } };
  switch (step.do) {
    case 'open':
      return { ...given, tap: 'open', newMedium: false };
    case 'disconnect':
      return { ...given, tap: 'open' };
    case 'change':
      return { ...given, newMedium: false };
    case 'connect':
      return { ...given, tap: 'connected', newRing: false };
    case 'close':
      return { ...given, tap: 'nothing' };
    case 'stop waiting':
      return { ...given, paused: false };
    case 'unbind':
      return { ...given, kernel: 'no' };
    case 'offer':
      return at(2, 'connected');
    case 'announce':
      return at(4);
    case 'move':
      return at(step.state);
    case 'refuse':
      return { ...at(2, 'error'), refusal: step.failure };
    case 'remove nodes':
      return { ...given, nodes: undefined };
    case 'report':
      return given;
  }
}
