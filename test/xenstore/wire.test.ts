/** The codec: strangers' packets, streams cut anywhere, headers that lie. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import {
  formatPermissions,
  parseDirectoryPart,
  parsePermission,
  splitStrings,
} from '../../src/xenstore/payload.ts';
import {
  createMessageParser,
  createMessageWriter,
  Header,
  MessageType,
  PAYLOAD_MAX_BYTES,
} from '../../src/xenstore/wire.ts';
import { corpusDir, needsCorpus } from '../peers.ts';
import { searching } from '../property.ts';

interface Message {
  type: number;
  requestId: number;
  transactionId: number;
  payload: string;
}

/** Everything that a parser makes of these chunks, payloads as hexadecimal. */
function parse(chunks: readonly Uint8Array[], payloadMaxBytes?: number): Message[] {
  const messages: Message[] = [];
  const parser = createMessageParser((type, requestId, transactionId, payloadView) => {
    messages.push({ type, requestId, transactionId, payload: payloadView.toString('hex') });
  }, payloadMaxBytes);
  for (const chunk of chunks) {
    // A borrowed chunk is overwritten afterwards, as a socket's buffer would be.
    const borrowed = Buffer.from(chunk);
    parser.feed(borrowed);
    borrowed.fill(0xee);
  }
  return messages;
}

function write({ type, requestId, transactionId, payload }: Message): Buffer {
  const writer = createMessageWriter();
  writer.add(type, requestId, transactionId, Buffer.from(payload, 'hex'));
  return writer.take();
}

function cut(bytes: Buffer, sizes: Iterable<number>): Buffer[] {
  const chunks: Buffer[] = [];
  let at = 0;
  for (const size of sizes) {
    chunks.push(bytes.subarray(at, at + size));
    at += size;
  }
  return [...chunks, bytes.subarray(at)];
}

const OPERATIONS: Readonly<Record<string, number>> = {
  Directory: MessageType.directory,
  Read: MessageType.read,
  Getperms: MessageType.getPerms,
  Rm: MessageType.rm,
  Setperms: MessageType.setPerms,
  Write: MessageType.write,
  Mkdir: MessageType.mkdir,
  Transaction_start: MessageType.transactionStart,
  Transaction_end: MessageType.transactionEnd,
  Introduce: MessageType.introduce,
  Release: MessageType.release,
  Resume: MessageType.resume,
  Getdomainpath: MessageType.getDomainPath,
  Watch: MessageType.watch,
  Unwatch: MessageType.unwatch,
  Debug: MessageType.control,
  Error: MessageType.error,
};

test(
  'packets made by another implementation are read, and written back the same',
  needsCorpus(),
  () => {
    const text = readFileSync(join(corpusDir, 'xenstore-wire.tsv'), 'utf8');
    const rows = text.split('\n').filter((row) => /^(request|response)\t/.test(row));
    assert.ok(rows.length >= 24);
    for (const row of rows) {
      const [, operation = '', meaning = '', hex = ''] = row.split('\t');
      const bytes = Buffer.from(hex, 'hex');
      const [message, ...more] = parse([bytes]);
      assert.ok(message !== undefined && more.length === 0, row);
      assert.equal(message.type, OPERATIONS[operation], row);
      const transaction = /(\d+)l$/.exec(meaning)?.[1] ?? /tid (\d+)/.exec(meaning)?.[1];
      if (transaction !== undefined) assert.equal(message.transactionId, Number(transaction), row);
      const said = [...meaning.matchAll(/"([^"]*)"/g)].map((match) => match[1] ?? '');
      const strings = splitStrings(Buffer.from(message.payload, 'hex'));
      assert.ok(
        said.every((each) => strings.includes(each)),
        row,
      );
      assert.equal(write(message).toString('hex'), hex, row);
    }
  },
);

test('a stream is understood however it is cut', (t) => {
  const message = fc.record(
    {
      type: fc.nat(22),
      requestId: fc.integer({ min: 0, max: 0xffffffff }),
      transactionId: fc.integer({ min: 0, max: 0xffffffff }),
      payload: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes).toString('hex')),
    },
    { noNullPrototype: true },
  );
  const property = fc.property(
    fc.array(message, { maxLength: 8 }),
    fc.array(fc.nat(60), { maxLength: 60 }),
    (messages, sizes) => {
      const stream = Buffer.concat(messages.map(write));
      assert.deepEqual(parse(cut(stream, sizes)), messages);
      assert.deepEqual(parse([...stream].map((byte) => Uint8Array.of(byte))), messages);
    },
  );
  fc.assert(property, searching(t, 300, 3000));
});

test('the longest payload passes, one byte more is corrupt before it is waited for', () => {
  const header = (lengthBytes: number): Uint8Array => Header.make({ type: 2, lengthBytes });
  const longest = Buffer.concat([header(PAYLOAD_MAX_BYTES), Buffer.alloc(PAYLOAD_MAX_BYTES)]);
  assert.equal(parse([longest]).length, 1);
  for (const lengthBytes of [PAYLOAD_MAX_BYTES + 1, 0x7fffffff, 0xffffffff]) {
    for (const size of [Header.size, 1]) {
      const chunks = cut(Buffer.from(header(lengthBytes)), Array<number>(Header.size).fill(size));
      assert.throws(
        () => parse(chunks),
        (thrown) => thrown instanceof Failure && thrown.kind === 'corrupt',
      );
    }
  }
});

test('what a header claims takes no memory before it comes', () => {
  const parser = createMessageParser(() => assert.fail('nothing is whole yet'), 2 ** 31);
  const before = process.memoryUsage().arrayBuffers;
  parser.feed(Header.make({ type: 2, lengthBytes: 2 ** 30 }));
  parser.feed(Buffer.alloc(1000));
  assert.ok(process.memoryUsage().arrayBuffers - before < 2 ** 20);
});

test('text is sent as UTF-8, and messages of one batch follow each other', () => {
  const writer = createMessageWriter();
  writer.add(MessageType.write, 1, 0, '/ä\0ö');
  writer.add(MessageType.write, 2, 7, 'x'.repeat(9000));
  const taken = writer.take();
  assert.equal(writer.lengthBytes, 0);
  const [first, second] = parse([taken], 2 ** 20);
  assert.equal(Buffer.from(first?.payload ?? '', 'hex').toString(), '/ä\0ö');
  assert.equal(second?.transactionId, 7);
  assert.equal(second?.payload.length, 2 * 9000);
});

test('permissions are one letter and a domain', () => {
  for (const text of ['n0', 'r5', 'w12', 'b65535']) {
    const permission = parsePermission(text);
    assert.ok(permission !== undefined);
    assert.equal(formatPermissions([permission]), `${text}\0`);
  }
  for (const text of ['', 'r', 'x1', 'r65536', 'r-1', 'r1 ', ' r1', 'r1.5']) {
    assert.equal(parsePermission(text), undefined, text);
  }
});

test('a part of a list says where it ends', () => {
  const parsed = (text: string) => parseDirectoryPart(Buffer.from(text));
  assert.deepEqual(parsed('17\0a\0bc\0'), {
    generation: '17',
    names: ['a', 'bc'],
    lengthBytes: 5,
    last: false,
  });
  for (const [text, names] of [
    ['17\0a\0bc\0\0', ['a', 'bc']],
    ['17\0\0', []],
    ['17\0', []],
  ] as const) {
    const part = parsed(text);
    assert.deepEqual([part.names, part.last], [names, true], text);
  }
});
