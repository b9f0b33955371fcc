/** Our client's side of NBD, against qemu's server. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { chooseExport } from '../../src/nbd/client.ts';
import { type NbdSession, sessionOn } from '../../src/nbd/session.ts';
import { Command, TransmissionFlag } from '../../src/nbd/wire.ts';
import { needsProgram } from '../peers.ts';
import { greets } from '../peers/greets.ts';
import { type TestFolder, testFolder } from './served.ts';

const SIZE_BYTES = 1 << 20;

/** Serves a raw file until it is disposed. */
async function qemuNbd(
  folder: TestFolder,
  ...flags: string[]
): Promise<AsyncDisposable & { kill(): void }> {
  writeFileSync(folder.file('a.raw'), Buffer.alloc(SIZE_BYTES, 'disk'));
  const args = ['-f', 'raw', '-k', folder.file('sock'), '-t', ...flags, folder.file('a.raw')];
  const server = spawn('qemu-nbd', args, { stdio: 'ignore' });
  const exited = once(server, 'exit');
  while (!(await greets(folder.file('sock')))) {
    assert.equal(server.exitCode, null, 'qemu-nbd has ended');
    await sleep(5);
  }
  return {
    kill: () => void server.kill('SIGKILL'),
    async [Symbol.asyncDispose]() {
      // A SIGTERM may come before it listens to one.
      server.kill('SIGKILL');
      await exited;
    },
  };
}

type Asked = Parameters<NbdSession['send']>[0];

function ask(session: NbdSession, asked: Asked): Promise<{ error: number; data: Uint8Array }> {
  const { promise, resolve } = Promise.withResolvers<{ error: number; data: Uint8Array }>();
  session.send(asked, (error, data) => resolve({ error, data }));
  return promise;
}

const peers = needsProgram('qemu-nbd');

test('an export of qemu is chosen, read and written, many requests at a time', peers, async () => {
  using folder = testFolder();
  await using _server = await qemuNbd(folder, '-x', 'here');
  using chosen = await chooseExport(folder.file('sock'), 'here');
  assert.equal(chosen.sizeBytes, SIZE_BYTES);
  const { hasFlags, flush, readOnly } = TransmissionFlag;
  assert.equal(chosen.flags & (hasFlags | flush | readOnly), hasFlags | flush);
  using session = sessionOn(chosen.socket);
  const data = new Uint8Array(4096).fill(7);
  const lengthBytes = data.length;
  const written = [0, 1, 2, 3].map((at) =>
    ask(session, { type: Command.write, at: at * 8192, lengthBytes, data }),
  );
  const read = ask(session, { type: Command.read, at: 4096, lengthBytes });
  const answers = await Promise.all([...written, read]);
  assert.deepEqual(new Set(answers.map(({ error }) => error)), new Set([0]));
  assert.equal(Buffer.from(answers.at(-1)?.data ?? []).toString('latin1', 0, 8), 'diskdisk');
  assert.equal((await ask(session, { type: Command.flush, at: 0, lengthBytes: 0 })).error, 0);
  const beyond = await ask(session, { type: Command.read, at: SIZE_BYTES, lengthBytes });
  assert.notEqual(beyond.error, 0);
  const file = readFileSync(folder.file('a.raw'));
  for (const at of [0, 8192, 16_384, 24_576]) {
    assert.deepEqual(new Uint8Array(file.subarray(at, at + lengthBytes)), data);
  }
});

test('a name that qemu does not serve is refused in its words', peers, async () => {
  using folder = testFolder();
  await using _server = await qemuNbd(folder, '-x', 'here');
  const asked = chooseExport(folder.file('sock'), 'elsewhere');
  await assert.rejects(asked, /refuses: .*elsewhere/);
});

test('what is read-only with qemu says so, and its end is heard', peers, async () => {
  using folder = testFolder();
  await using server = await qemuNbd(folder, '-r');
  using chosen = await chooseExport(folder.file('sock'));
  assert.notEqual(chosen.flags & TransmissionFlag.readOnly, 0);
  using session = sessionOn(chosen.socket);
  server.kill();
  await session.ended;
});

test('who is no NBD server, or nobody, is told so', async () => {
  using folder = testFolder();
  const path = folder.file('sock');
  await assert.rejects(chooseExport(path), /no NBD server answers at .*sock: ENOENT/);
  const server = createServer((client) => client.end('HTTP/1.1 400 Bad Request\r\n')).listen(path);
  await once(server, 'listening');
  await assert.rejects(chooseExport(path), /is no NBD server of today/);
  server.removeAllListeners('connection').on('connection', (client) => client.destroy());
  await assert.rejects(chooseExport(path), /has hung up/);
  server.close();
});
