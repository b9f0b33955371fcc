/** Disks of the tap that are served by NBD: by qemu's own client, to root alone, while they are resized. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { within } from '../../src/base/deadline.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { createImage } from '../../src/image/open.ts';
import { patienceMs } from '../patience.ts';
import { needs, needsProgram } from '../peers.ts';
import { openClient } from '../nbd/client.ts';
import { startTapProcess, type TapProcess } from './tap-process.ts';

const SIZE_BYTES = 4 << 20;

async function serve(
  tap: TapProcess,
  format: ImageFormat,
  name = 'vbd-1-51712',
): Promise<{ path: string; at: string }> {
  const path = join(tap.folder, `${name}.${format}`);
  using files = createFileTable();
  createImage(path, { format, sizeBytes: SIZE_BYTES, options: {}, files });
  await tap.client.call('PUT', `/v1/disks/${name}`, { path, format, writable: true });
  const { socket } = await tap.client.call<{ socket: string }>('PUT', `/v1/disks/${name}/nbd`);
  return { path, at: socket };
}

const peers = needsProgram('qemu-img', 'qemu-io');

test(
  'what a client writes by NBD is in the image, and its socket goes with it',
  peers,
  async () => {
    await using tap = await startTapProcess();
    const { path, at } = await serve(tap, 'vmdk');
    const again = await tap.client.call('PUT', '/v1/disks/vbd-1-51712/nbd');
    assert.deepEqual(again, { socket: at });
    assert.equal(statSync(at).mode & 0o777, 0o600);
    const uri = `nbd+unix:///?socket=${at}`;
    const io = ['-f', 'raw', '-c', 'write -P 0x5a 64k 1M', '-c', 'flush', uri];
    execFileSync('qemu-io', io);
    execFileSync('qemu-img', ['compare', '-U', '-f', 'raw', '-F', 'vmdk', uri, path]);
    await tap.client.call('DELETE', '/v1/disks/vbd-1-51712');
    assert.ok(!existsSync(at));
    const read = ['-r', '-f', 'vmdk', '-c', 'read -P 0x5a 64k 1M', path];
    assert.match(execFileSync('qemu-io', read, { encoding: 'utf8' }), /read 1048576\/1048576/);
  },
);

test('a disk grows while a client uses it, and the client is counted', async () => {
  await using tap = await startTapProcess();
  const { at } = await serve(tap, 'qcow2');
  {
    using client = await openClient({ path: at });
    assert.equal(client.sizeBytes, SIZE_BYTES);
    const size = 2 * SIZE_BYTES;
    const grown = await tap.client.call<{ sectors: number }>('PUT', '/v1/disks/vbd-1-51712/size', {
      size,
    });
    assert.equal(grown.sectors * 512, size);
    const [written] = await client.ask({ type: 1, at: size - 512, data: Buffer.alloc(512, 7) });
    assert.equal(written?.type, 0);
    const [state] = await tap.client.call<[object]>('GET', '/v1/status').then(disksOf);
    assert.equal((state as { nbd_clients: number }).nbd_clients, 1);
  }
  using second = await openClient({ path: at });
  assert.equal(second.sizeBytes, 2 * SIZE_BYTES);
});

function disksOf(status: object): object[] {
  return (status as { disks: object[] }).disks;
}

test('clients that ask for nothing keep no tap that is to end', async () => {
  await using tap = await startTapProcess();
  using stack = new DisposableStack();
  const names = ['vbd-1-51712', 'vbd-1-51728', 'vbd-1-51744'];
  for (const name of names) {
    const { at } = await serve(tap, 'raw', name);
    stack.use(await openClient({ path: at }));
  }
  // Nothing else happens in the tap meanwhile.
  await within(patienceMs(60_000), "the tap's end", () => tap.end()).catch(
    async (thrown: unknown) => {
      await tap.kill();
      throw thrown;
    },
  );
});

const root = needs(process.getuid?.() === 0, 'only root can be somebody else');

test('who is not root gets nothing, even where the socket lets him in', root, async () => {
  await using tap = await startTapProcess();
  const { at } = await serve(tap, 'raw');
  for (const path of [tap.folder, join(at, '..'), at]) chmodSync(path, 0o777);
  const listen = `
    const socket = require('net').connect(${JSON.stringify(at)});
    const say = (word) => { console.log(word); process.exit(); };
    socket.on('data', ({ length }) => say(length)).on('error', ({ code }) => say(code));
    socket.on('end', () => say('nothing'));`;
  const asked = spawnSync(process.execPath, ['-e', listen], {
    uid: 65534,
    gid: 65534,
    encoding: 'utf8',
    cwd: '/',
  });
  assert.equal(asked.stdout, 'nothing\n', asked.stderr);
  using own = await openClient({ path: at });
  assert.equal(own.sizeBytes, SIZE_BYTES);
});
