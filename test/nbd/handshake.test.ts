/** The handshake without a socket: what is said, what is answered, and what is agreed on. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Image } from '../../src/image/image.ts';
import { exportTable, type NbdExport } from '../../src/nbd/exports.ts';
import { advance, type Handshake, startHandshake } from '../../src/nbd/handshake.ts';
import { Info, Option, OptionReply, TransmissionFlag } from '../../src/nbd/wire.ts';
import {
  contextQuery,
  exportChoice,
  flags,
  option,
  parseReplies,
  type Reply,
} from './wire-text.ts';

function disk(name: string, writable = true): NbdExport {
  const image = { sizeBytes: 5 * 2 ** 40 + 512 } as Image;
  const description = name === '' ? '' : `disk ${name}`;
  return { name, description, image, writable, fastZero: true, bitmaps: new Map() };
}

const two = exportTable([disk('a'), disk('ö', false)]);
const one = exportTable([disk('only')]);

/** Says all of it after the client's flags. */
function say(
  handshake: Handshake,
  ...parts: Uint8Array[]
): { phase: Handshake['phase']; replies: Reply[] } {
  const left = handshake.out.splice(0);
  assert.ok(left.length <= 1);
  const input = Buffer.concat([flags(3), ...parts]);
  advance(handshake, input);
  return {
    phase: handshake.phase,
    replies: parseReplies(Buffer.concat(handshake.out.splice(0))),
  };
}

const types = (replies: Reply[]): number[] => replies.map((reply) => reply.type);

test('the greeting says fixed newstyle and no zeroes', () => {
  const [greeting] = startHandshake(two, 'none').out;
  assert.equal(Buffer.from(greeting ?? []).toString('latin1'), 'NBDMAGICIHAVEOPT\0\x03');
});

const { ack, server, info, metaContext, invalid, unknown, unsupported, tooBig } = OptionReply;
const { policy, tlsRequired, extendedHeadersRequired } = OptionReply;
const structured = option(Option.structuredReply);
const go = (name: string, infos: number[] = []) => option(Option.go, exportChoice(name, infos));

const rows: [string, Uint8Array[], number[], Handshake['phase']][] = [
  ['LIST names all', [option(Option.list)], [server, server, ack], 'options'],
  ['LIST takes no data', [option(Option.list, Buffer.from('x'))], [invalid], 'options'],
  ['ABORT is acknowledged', [option(Option.abort)], [ack], 'closed'],
  ['an option of tomorrow', [option(4711, Buffer.from('abc'))], [unsupported], 'options'],
  ['an option too long to be one', [option(7, Buffer.alloc(70_000))], [tooBig], 'closed'],
  ['another magic', [Buffer.alloc(16)], [], 'closed'],
  ['GO', [go('a')], [info, ack], 'agreed'],
  ['GO with every fact', [go('a', [0, 1, 2, 3, 9])], [info, info, info, info, ack], 'agreed'],
  ['GO to nothing', [go('b')], [unknown], 'options'],
  ['GO to the default where there are two', [go('')], [unknown], 'options'],
  [
    'INFO goes on',
    [option(Option.info, exportChoice('a')), go('ö')],
    [info, ack, info, ack],
    'agreed',
  ],
  ['a GO that is cut', [option(7, exportChoice('a').subarray(0, -1))], [invalid], 'options'],
  [
    'a GO with more',
    [option(7, Buffer.concat([exportChoice('a'), Buffer.alloc(2)]))],
    [invalid],
    'options',
  ],
  ['a name of 4097 bytes', [go('n'.repeat(4097))], [invalid], 'options'],
  ['STARTTLS without it', [option(Option.startTls)], [policy], 'options'],
  [
    'contexts before structured replies',
    [option(10, contextQuery('a', ['base:allocation']))],
    [invalid],
    'options',
  ],
  ['no context', [structured, option(10, contextQuery('a', []))], [ack, ack], 'options'],
  [
    'an unknown context',
    [structured, option(10, contextQuery('a', ['qemu:x']))],
    [ack, ack],
    'options',
  ],
  [
    'a list of contexts',
    [structured, option(9, contextQuery('a', []))],
    [ack, metaContext, ack],
    'options',
  ],
  [
    'a namespace, listed',
    [structured, option(9, contextQuery('a', ['base:']))],
    [ack, metaContext, ack],
    'options',
  ],
  [
    'a namespace, chosen',
    [structured, option(10, contextQuery('a', ['base:']))],
    [ack, ack],
    'options',
  ],
  [
    'contexts of nothing',
    [structured, option(10, contextQuery('b', ['base:allocation']))],
    [ack, unknown],
    'options',
  ],
  [
    'structured after extended',
    [option(Option.extendedHeaders), structured],
    [ack, extendedHeadersRequired],
    'options',
  ],
  ['EXPORT_NAME of nothing', [option(1, Buffer.from('b'))], [], 'closed'],
  ['EXPORT_NAME with extended headers', [option(11), option(1, Buffer.from('a'))], [ack], 'closed'],
];

for (const [name, parts, expected, phase] of rows) {
  test(`handshake: ${name}`, () => {
    const answer = say(startHandshake(two, 'none'), ...parts);
    assert.deepEqual(types(answer.replies), expected);
    assert.equal(answer.phase, phase);
  });
}

test('a client with flags of tomorrow is left', () => {
  const handshake = startHandshake(two, 'none');
  advance(handshake, flags(7));
  assert.equal(handshake.phase, 'closed');
});

test('the size and what can be done are told, for writing and for reading', () => {
  const flag = TransmissionFlag;
  for (const [name, has, hasNot] of [
    ['a', flag.trim | flag.fua | flag.resize | flag.multiConn, flag.readOnly | flag.dontFragment],
    ['ö', flag.readOnly | flag.multiConn, flag.trim | flag.writeZeroes | flag.resize],
  ] as const) {
    const { replies } = say(startHandshake(two, 'none'), go(name));
    const data = Buffer.from(replies[0]?.data ?? []);
    assert.equal(data.readUInt16BE(0), Info.export);
    assert.equal(data.readBigUInt64BE(2), BigInt(5 * 2 ** 40 + 512));
    assert.equal(data.readUInt16BE(10) & (has | hasNot), has);
  }
});

test('the only export has the default name too', () => {
  assert.equal(say(startHandshake(one, 'none'), go('')).phase, 'agreed');
});

test('a context counts for the export that it was chosen for', () => {
  for (const [name, expected] of [
    ['a', true],
    ['ö', false],
  ] as const) {
    const handshake = startHandshake(two, 'none');
    say(handshake, structured, option(10, contextQuery('a', ['base:allocation'])), go(name));
    assert.equal((handshake.agreed?.contexts.length ?? 0) > 0, expected);
  }
});

test('where TLS is required nothing is told before it', () => {
  const handshake = startHandshake(two, 'required');
  const { replies, phase } = say(handshake, option(Option.list), go('a'), option(Option.startTls));
  assert.deepEqual(types(replies), [tlsRequired, tlsRequired, ack]);
  assert.equal(phase, 'tls');
  const named = say(startHandshake(two, 'required'), option(1, Buffer.from('a')));
  assert.deepEqual(named, { phase: 'closed', replies: [] });
});

test('cut anywhere, the same bytes get the same answers; and no bytes do harm', () => {
  const whole = Buffer.concat([
    flags(1),
    option(Option.list),
    structured,
    option(10, contextQuery('a', ['base:allocation'])),
    go('a', [3]),
  ]);
  const answers = (input: Uint8Array, cuts: readonly number[]): [string, string] => {
    const handshake = startHandshake(two, 'none');
    let kept = Buffer.alloc(0);
    let from = 0;
    for (const cut of [...cuts.toSorted((a, b) => a - b), input.length]) {
      kept = Buffer.concat([kept, input.subarray(from, cut)]);
      kept = kept.subarray(advance(handshake, kept));
      from = cut;
    }
    return [handshake.phase, Buffer.concat(handshake.out).toString('hex')];
  };
  const expected = answers(whole, []);
  assert.equal(expected[0], 'agreed');
  fc.assert(
    fc.property(fc.array(fc.nat(whole.length)), (cuts) => {
      assert.deepEqual(answers(whole, cuts), expected);
    }),
    { numRuns: 100 },
  );
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, byte) => {
      const damaged = Buffer.from(whole);
      damaged[at] = byte;
      answers(damaged, []);
    }),
    { numRuns: 300 },
  );
});
