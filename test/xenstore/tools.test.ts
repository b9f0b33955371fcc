/** Xen's own tools, as Debian ships them, on the embedded xenstored's socket. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { startStoreServer } from '../../src/xenstore/embedded/server.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { needsProgram, program } from '../peers.ts';
import { owned, until } from './suite.ts';

const run = promisify(execFile);
const dir = mkdtempSync(join(tmpdir(), 'vbdkit-tools-'));
const socket = join(dir, 'socket');
const env = { ...process.env, XENSTORED_PATH: socket };
const server = startStoreServer();
let store: Store;

async function tool(name: string, ...args: string[]): Promise<string> {
  return (await run(program(name) ?? name, args, { env, timeout: 10_000 })).stdout;
}

before(async () => {
  await server.listen(socket);
  store = server.connect(0);
});
after(async () => {
  await store[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

const needed = needsProgram('xenstore-ls', 'xenstore-write', 'xenstore-watch');

test('what xenstore-write wrote is read here, and the other way round', needed, async () => {
  await tool('xenstore-write', '/tool/a', 'one', '/tool/b', 'two words');
  assert.deepEqual((await store.readAll(['/tool/a', '/tool/b'])).values, ['one', 'two words']);
  await store.write('/tool/c', 'three');
  assert.equal(await tool('xenstore-read', '/tool/c', '/tool/a'), 'three\none\n');
  assert.equal(await tool('xenstore-list', '/tool'), 'a\nb\nc\n');
  await tool('xenstore-rm', '/tool/b');
  assert.equal(await store.read('/tool/b'), undefined);
  await assert.rejects(tool('xenstore-read', '/tool/b'));
});

test('xenstore-ls shows the tree and its permissions', needed, async () => {
  await store.write('/shown/x/y', 'v');
  await store.setPermissions('/shown/x', [owned(5), owned(0, 'r')]);
  assert.equal(
    await tool('xenstore-ls', '-f', '-p', '/shown'),
    '/shown/x = ""   (n5,r0)\n/shown/x/y = "v"   (n0)\n',
  );
  assert.equal(await tool('xenstore-ls', '-f', '/none').catch(() => 'refused'), 'refused');
});

test('xenstore-ls lists more children than fit into one reply', needed, async () => {
  const names = Array.from({ length: 500 }, (_, n) => `/wide/some-longer-name-${n}`);
  await Promise.all(names.map((path) => store.mkdir(path)));
  const lines = (await tool('xenstore-ls', '-f', '/wide')).trim().split('\n');
  assert.deepEqual(lines.sort(), names.map((path) => `${path} = ""`).sort());
});

test('xenstore-chmod sets permissions', needed, async () => {
  await store.mkdir('/chmod');
  await tool('xenstore-chmod', '/chmod', 'n0', 'r7');
  assert.deepEqual(await store.permissions('/chmod'), [owned(0), owned(7, 'r')]);
});

test('xenstore-watch hears of changes', needed, async () => {
  const watcher = spawn(program('xenstore-watch') ?? '', ['/heard'], { env });
  let heard = '';
  watcher.stdout.on('data', (chunk: Buffer) => (heard += chunk.toString()));
  try {
    await until(() => heard === '/heard\n', 'the first event');
    await store.write('/heard/now', '1');
    await until(() => heard === '/heard\n/heard/now\n', 'the second event');
  } finally {
    watcher.kill();
  }
});
