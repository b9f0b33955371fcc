/** Requests and replies of a server, each as it goes over the wire. */
import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { test } from 'node:test';
import { Command, CommandFlag, NbdError } from '../../src/nbd/wire.ts';
import { type NbdClient, openClient, type Request, type Ways } from './client.ts';
import { type Served, serveIn, testFolder, type TestFolder } from './served.ts';
import { contextQuery, option } from './wire-text.ts';

const MIB = 2 ** 20;
const sizeBytes = 64 * MIB;
const { read, write, flush, trim, cache, writeZeroes, blockStatus, resize } = Command;

/** A sparse raw disk with bytes at 1 MiB to 3 MiB and at its end. */
function makeDisk(folder: TestFolder, name = 'disk.raw'): { path: string; content: Buffer } {
  const path = folder.file(name);
  const content = Buffer.alloc(sizeBytes);
  for (let at = MIB; at < 3 * MIB; at += 4)
    content.writeUInt32LE((at * 2_654_435_761) % 2 ** 32, at);
  content.fill('end', sizeBytes - 4096);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  const fd = openSync(path, 'r+');
  writeSync(fd, content, MIB, 2 * MIB, MIB);
  writeSync(fd, content, sizeBytes - 4096, 4096, sizeBytes - 4096);
  closeSync(fd);
  return { path, content };
}

async function withServer(
  work: (served: Served, content: Buffer, path: string) => Promise<void>,
  writable = true,
): Promise<void> {
  using folder = testFolder();
  const { path, content } = makeDisk(folder);
  await using served = await serveIn(folder, { path, writable });
  await work(served, content, path);
}

const error = async (client: NbdClient, request: Request): Promise<number> => {
  const [reply] = await client.ask(request);
  if (reply?.kind === 'simple') return reply.type;
  return reply !== undefined && reply.type >= 0x8000 ? reply.payload.readUInt32BE(0) : 0;
};

/** Puts the bytes of a read's chunks together, and counts what was told as a hole. */
async function readAll(
  client: NbdClient,
  at: number,
  length: number,
  more: Partial<Request> = {},
): Promise<{ bytes: Buffer; holeBytes: number; chunks: number }> {
  const chunks = await client.ask({ type: read, at, length, ...more });
  const bytes = Buffer.alloc(length, 0xee);
  let holeBytes = 0;
  for (const { kind, type, payload } of chunks) {
    if (kind === 'simple') payload.copy(bytes);
    else if (type === 1) payload.copy(bytes, Number(payload.readBigUInt64BE(0)) - at, 8);
    else if (type === 2) {
      const from = Number(payload.readBigUInt64BE(0)) - at;
      bytes.fill(0, from, from + payload.readUInt32BE(8));
      holeBytes += payload.readUInt32BE(8);
    } else assert.equal(type, 0);
  }
  return { bytes, holeBytes, chunks: chunks.length };
}

const ways: [string, Ways][] = [
  ['simple replies', {}],
  ['structured replies', { structured: true }],
  ['extended headers', { extended: true }],
];

for (const [name, way] of ways) {
  test(`what is written reads back, small and large, odd and even, with ${name}`, async () => {
    await withServer(async (served, content, path) => {
      using client = await openClient(served.at, way);
      assert.equal(client.sizeBytes, sizeBytes);
      const payload = way.extended === true ? CommandFlag.payloadLength : 0;
      for (const [at, length] of [
        [0, 1],
        [4095, 3],
        [1000, 5000],
        [MIB - 512, MIB + 1024],
        [5 * MIB, 32 * MIB],
        [sizeBytes - 1, 1],
      ] as const) {
        const data = Buffer.alloc(length, `${at}.`);
        data.copy(content, at);
        assert.equal(await error(client, { type: write, at, data, flags: payload }), 0);
      }
      assert.equal(await error(client, { type: writeZeroes, at: 777, length: 70_000 }), 0);
      content.fill(0, 777, 70_777);
      assert.equal(await error(client, { type: flush }), 0);
      for (const [at, length] of [
        [0, 1],
        [511, 514],
        [0, 65_536],
        [MIB - 100, 2 * MIB + 200],
        [40 * MIB - 65_536, 24 * MIB + 65_536],
        [sizeBytes - 32 * MIB, 32 * MIB],
        [3, 0],
      ] as const) {
        const { bytes } = await readAll(client, at, length);
        assert.ok(bytes.equals(content.subarray(at, at + length)), `${length} bytes at ${at}`);
      }
      assert.ok(readFileSync(path).equals(content));
    });
  });
}

test('many requests of all sizes at once, with replies nobody takes yet, are all answered', async () => {
  await withServer(async (served, content) => {
    using client = await openClient(served.at);
    const asked = new Map<bigint, { at: number; length: number }>();
    const requests: Request[] = [];
    for (let index = 0; index < 700; index += 1) {
      const length = index % 50 === 0 ? 8 * MIB : (index % 7) * 1000 + 1;
      const at = (index * 77_777) % (sizeBytes - length);
      asked.set(BigInt(index), { at, length });
      requests.push({ type: read, at, length, cookie: BigInt(index) });
    }
    client.send(...requests);
    // Simple replies without errors: each is 12 bytes after its magic, then what was asked for.
    for (let count = 0; count < requests.length; count += 1) {
      const { cookie, type } = await client.next(0);
      const { at = 0, length = 0 } = asked.get(cookie) ?? {};
      assert.ok(asked.delete(cookie));
      assert.equal(type, 0);
      const bytes = await client.bytes(length);
      assert.ok(bytes.equals(content.subarray(at, at + length)));
    }
  });
});

test('a large read tells holes and sends the rest, and asked not to, sends one piece', async () => {
  await withServer(async (served, content) => {
    using client = await openClient(served.at, { structured: true });
    const whole = await readAll(client, 8 * MIB, 16 * MIB);
    assert.ok(whole.bytes.equals(content.subarray(8 * MIB, 24 * MIB)));
    const one = await readAll(client, 0, 4 * MIB, { flags: CommandFlag.dontFragment });
    assert.ok(one.bytes.equals(content.subarray(0, 4 * MIB)));
    assert.ok(one.chunks <= 2);
  });
});

const rows: [string, number, Request][] = [
  ['a read past the end', NbdError.invalid, { type: read, at: sizeBytes - 512, length: 1024 }],
  [
    'a read at the end of numbers',
    NbdError.invalid,
    { type: read, at: 2n ** 64n - 512n, length: 1024 },
  ],
  ['a read of 33 MiB', NbdError.invalid, { type: read, at: 0, length: 33 * MIB }],
  [
    'a write past the end',
    NbdError.noSpace,
    { type: write, at: sizeBytes - 1, data: Buffer.alloc(2) },
  ],
  ['a write of 33 MiB', NbdError.invalid, { type: write, at: 0, data: Buffer.alloc(33 * MIB) }],
  ['a trim past the end', NbdError.invalid, { type: trim, at: sizeBytes, length: 1 }],
  ['zeroes past the end', NbdError.noSpace, { type: writeZeroes, at: sizeBytes, length: 1 }],
  ['a command of tomorrow', NbdError.invalid, { type: 99 }],
  ['a flag of tomorrow', NbdError.invalid, { type: read, length: 512, flags: 0x8000 }],
  [
    'a payload length before extended headers',
    NbdError.invalid,
    { type: write, data: Buffer.alloc(9), flags: 32 },
  ],
  ['block status without a context', NbdError.invalid, { type: blockStatus, length: 512 }],
  [
    'no hole, and fast',
    NbdError.notSupported,
    { type: writeZeroes, length: 512, flags: CommandFlag.noHole | CommandFlag.fastZero },
  ],
];

test('a bad request gets its error, and the client stays', async (t) => {
  await withServer(async (served, content, path) => {
    for (const [name, expected, request] of rows) {
      await t.test(`${name}: ${expected}`, async () => {
        for (const [, way] of ways.slice(0, 2)) {
          using client = await openClient(served.at, way);
          assert.equal(await error(client, request), expected);
          const { bytes } = await readAll(client, MIB, 512);
          assert.ok(bytes.equals(content.subarray(MIB, MIB + 512)));
        }
      });
    }
    assert.ok(readFileSync(path).equals(content));
  });
});

test('with extended headers a payload where none belongs is thrown away', async () => {
  await withServer(async (served) => {
    using client = await openClient(served.at, { extended: true });
    const data = Buffer.alloc(100_000, 1);
    assert.equal(await error(client, { type: blockStatus, data, flags: 32 }), NbdError.invalid);
    assert.equal(await error(client, { type: read, length: 2n ** 63n }), NbdError.invalid);
    assert.equal(await error(client, { type: trim, length: sizeBytes }), 0);
  });
});

test('nothing changes a disk that is served for reading', async () => {
  await withServer(async (served, content, path) => {
    using client = await openClient(served.at);
    for (const type of [write, trim, writeZeroes, resize]) {
      const data = type === write ? { data: Buffer.alloc(512) } : { length: 512 };
      assert.equal(await error(client, { type, at: 4096, ...data }), NbdError.perm);
    }
    assert.equal(await error(client, { type: flush }), 0);
    assert.ok(readFileSync(path).equals(content));
  }, false);
});

test('what was trimmed reads as before or as zeros, and what was zeroed as zeros, with and without holes', async () => {
  await withServer(async (served, content) => {
    using client = await openClient(served.at);
    assert.equal(await error(client, { type: trim, at: MIB, length: 65_536 }), 0);
    const { bytes } = await readAll(client, MIB, 65_536);
    assert.ok(
      bytes.equals(Buffer.alloc(65_536)) || bytes.equals(content.subarray(MIB, MIB + 65_536)),
    );
    for (const flags of [0, CommandFlag.noHole, CommandFlag.fastZero, CommandFlag.fua]) {
      assert.equal(
        await error(client, { type: write, at: 2 * MIB, data: Buffer.alloc(65_536, 7) }),
        0,
      );
      const asked = { type: writeZeroes, at: 2 * MIB + 1, length: 65_534, flags };
      const answer = await error(client, asked);
      assert.ok(
        answer === 0 || (flags === CommandFlag.fastZero && answer === NbdError.notSupported),
      );
      const after = (await readAll(client, 2 * MIB, 65_536)).bytes;
      const expected = Buffer.alloc(65_536, answer === 0 ? 0 : 7);
      expected[0] = 7;
      expected[65_535] = 7;
      assert.ok(after.equals(expected));
    }
  });
});

for (const extended of [false, true]) {
  test(`block status covers the disk and finds its holes, ${extended ? '64' : '32'} bits wide`, async () => {
    await withServer(async (served, content) => {
      const context = option(10, contextQuery('', ['base:allocation']));
      const way = extended ? { extended } : { structured: true };
      using client = await openClient(served.at, { ...way, options: [context] });
      const found: { at: number; length: number; zero: boolean }[] = [];
      for (let at = 0; at < sizeBytes;) {
        const [reply] = await client.ask({ type: blockStatus, at, length: sizeBytes - at });
        assert.equal(reply?.type, extended ? 6 : 5);
        const payload = reply?.payload ?? Buffer.alloc(0);
        assert.equal(payload.readUInt32BE(0), 0);
        for (let next = extended ? 8 : 4; next < payload.length; next += extended ? 16 : 8) {
          const length = extended
            ? Number(payload.readBigUInt64BE(next))
            : payload.readUInt32BE(next);
          const status = extended
            ? Number(payload.readBigUInt64BE(next + 8))
            : payload.readUInt32BE(next + 4);
          assert.ok(status === 0 || status === 3);
          found.push({ at, length, zero: status === 3 });
          at += length;
        }
      }
      assert.equal(
        found.reduce((sum, { length }) => sum + length, 0),
        sizeBytes,
      );
      for (const { at, length, zero } of found) {
        if (zero) assert.ok(content.subarray(at, at + length).equals(Buffer.alloc(length)));
      }
      const [first] = await client.ask({
        type: blockStatus,
        length: sizeBytes,
        flags: CommandFlag.requestOne,
      });
      assert.equal(first?.payload.length, extended ? 24 : 12);
    });
  });
}

test('a new size is there at once, on every connection, and in the file', async () => {
  await withServer(async (served, _, path) => {
    using client = await openClient(served.at);
    using other = await openClient(served.at);
    assert.equal(await error(client, { type: resize, at: sizeBytes + MIB }), 0);
    assert.equal(
      await error(other, { type: write, at: sizeBytes + MIB - 3, data: Buffer.from('new') }),
      0,
    );
    using third = await openClient(served.at);
    assert.equal(third.sizeBytes, sizeBytes + MIB);
    assert.equal(readFileSync(path).toString('latin1', sizeBytes + MIB - 3), 'new');
  });
});

test('what may be cached is cached, or not, and is no error', async () => {
  await withServer(async (served) => {
    using client = await openClient(served.at);
    assert.equal(await error(client, { type: cache, at: MIB, length: 4 * MIB }), 0);
  });
});

test('whoever says what is no request is left, and others are not', async () => {
  await withServer(async (served, content) => {
    using other = await openClient(served.at);
    using client = await openClient(served.at);
    client.say(Buffer.alloc(28, 1));
    assert.equal(await client.closed(), true);
    using gone = await openClient(served.at);
    gone.send({ type: write, at: 0, length: 65_536 });
    gone.say(Buffer.alloc(100, 1));
    gone[Symbol.dispose]();
    assert.ok((await readAll(other, 0, 65_536)).bytes.equals(content.subarray(0, 65_536)));
  });
});

test('a client that says it leaves is still told what it asked for before', async () => {
  await withServer(async (served, content) => {
    using client = await openClient(served.at);
    client.send(
      { type: read, at: MIB, length: 3 * MIB },
      { type: flush },
      { type: Command.disconnect },
    );
    assert.ok((await client.next(3 * MIB)).payload.equals(content.subarray(MIB, 4 * MIB)));
    assert.equal((await client.next()).type, 0);
    assert.equal(await client.closed(), true);
  });
});

test('each export has its own disk, and a server that is told to stop leaves no socket', async () => {
  using folder = testFolder();
  const disks = ['one', 'two'].map((name) => ({ name, ...makeDisk(folder, name) }));
  {
    await using served = await serveIn(folder, ...disks);
    for (const { name } of disks) {
      using client = await openClient(served.at, { name });
      assert.equal(await error(client, { type: write, at: 0, data: Buffer.from(name) }), 0);
    }
    await assert.rejects(openClient(served.at, { name: '' }), /refused/);
    assert.ok(existsSync(served.at.path));
  }
  assert.ok(!existsSync(folder.file('nbd.sock')));
  for (const { name, path } of disks)
    assert.equal(readFileSync(path).toString('latin1', 0, 3), name);
});

test('whatever is asked, in any order, every request is answered once', async () => {
  await withServer(async (served) => {
    const context = option(10, contextQuery('', ['base:allocation']));
    for (const way of [{ structured: true }, { extended: true }] as Ways[]) {
      using client = await openClient(served.at, { ...way, options: [context] });
      const waiting = new Set<bigint>();
      let seed = 7;
      const chance = (below: number): number => {
        seed = (seed * 48_271) % 2_147_483_647;
        return seed % below;
      };
      for (let index = 0; index < 400; index += 1) {
        const type = [0, 1, 3, 4, 5, 6, 7, 9][chance(8)] ?? 0;
        const flags = chance(3) === 0 ? chance(64) : 0;
        const length = chance(5) === 0 ? chance(300_000) : chance(9000);
        const at = chance(10) === 0 ? sizeBytes - 1000 : chance(sizeBytes - 300_000);
        const carries = type === 1 || (way.extended === true && (flags & 32) !== 0);
        const data = carries ? { data: Buffer.alloc(length, index) } : { length };
        waiting.add(BigInt(index));
        client.send({ type, flags, at, cookie: BigInt(index), ...data });
      }
      while (waiting.size > 0) {
        const { done, cookie } = await client.next();
        if (done) assert.ok(waiting.delete(cookie), `request ${cookie} is answered twice`);
      }
    }
  });
});
