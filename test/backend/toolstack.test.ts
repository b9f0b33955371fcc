/** What a toolstack writes, waits for and leaves behind, with the backend played by the test. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  attachDisk,
  closeByForce,
  detachDisk,
  removeDiskNodes,
} from '../../src/backend/toolstack.ts';
import type { Failure } from '../../src/base/failure.ts';
import { diskPaths, type NodeOptions } from '../../src/disk/libxl-nodes.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { startStoreServer } from '../../src/xenstore/embedded/server.ts';
import type { Store } from '../../src/xenstore/store.ts';

const place: NodeOptions = {
  domid: 7,
  devid: 51712,
  backendDomid: 0,
  kind: 'vbd',
  scriptDir: '/etc/xen/scripts',
};
const paths = diskPaths(place);
const spec = parseSpec(['/srv/a.img,raw,xvda,rw']);

interface Scene extends AsyncDisposable {
  readonly toolstack: Store;
  /** Everyone else. */
  readonly other: Store;
}

async function scene(): Promise<Scene> {
  const server = startStoreServer();
  const toolstack = server.connect(0);
  const other = server.connect(0);
  // What a host and a guest have besides this disk, so that their folders stay.
  await toolstack.write('/local/domain/0/name', 'Domain-0');
  await toolstack.write('/local/domain/7/name', 'web');
  await toolstack.write('/libxl/7/type', 'pv');
  return {
    toolstack,
    other,
    async [Symbol.asyncDispose]() {
      await toolstack[Symbol.asyncDispose]();
      await other[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** Calls `act` with the value of a node now and after each change. */
async function follow(
  store: Store,
  path: string,
  act: (value: string | undefined) => Promise<unknown>,
): Promise<AsyncDisposable> {
  return store.observe(path, () => void store.read(path).then(act));
}

/** A backend that gets ready, has a device plugged in with that status, and closes when told to. */
async function playBackend(
  store: Store,
  hotplug: Readonly<Record<string, string>>,
): Promise<AsyncDisposable> {
  const state = `${paths.backend}/state`;
  return follow(store, state, async (value) => {
    if (value === '1') {
      await store.write(state, '2');
      for (const [name, text] of Object.entries(hotplug)) {
        await store.write(`${paths.backend}/${name}`, text);
      }
    }
    if (value === '5') await store.write(state, '6');
  });
}

async function assertNothingLeft(store: Store): Promise<void> {
  for (const path of Object.values(paths)) assert.equal(await store.read(path), undefined, path);
  assert.deepEqual(await store.directory('/local/domain/0'), ['name']);
  assert.deepEqual(await store.directory('/local/domain/7'), ['name']);
  assert.deepEqual(await store.directory('/libxl/7'), ['type']);
}

test('a disk is attached when its hotplug step is done, and detached without a trace', async () => {
  await using the = await scene();
  await using _ = await playBackend(the.other, { 'hotplug-status': 'connected' });
  await attachDisk(the.toolstack, spec, place);
  assert.equal(await the.other.read(`${paths.libxl}/params`), '/srv/a.img');
  await detachDisk(the.toolstack, place);
  await assertNothingLeft(the.other);
  await detachDisk(the.toolstack, place);
});

test('of two that attach the same disk number at once, one is refused', async () => {
  await using the = await scene();
  await using _ = await playBackend(the.other, { 'hotplug-status': 'connected' });
  const attached = await Promise.allSettled([
    attachDisk(the.toolstack, spec, place),
    attachDisk(the.other, spec, place),
  ]);
  assert.deepEqual(attached.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  const refused = attached.find((outcome) => outcome.status === 'rejected');
  assert.equal((refused!.reason as Failure).kind, 'exists');
  assert.equal(await the.other.read(`${paths.backend}/online`), '1');
});

test('what the hotplug step refuses is said in its words, and nothing is left', async () => {
  await using the = await scene();
  const why = 'xvda is in use by guest db (domid 3) — detach it there';
  for (const [status, kind] of [
    ['busy', 'in-use'],
    ['error', 'io'],
  ] as const) {
    const nodes = { 'hotplug-error': why, 'hotplug-status': status };
    await using _ = await playBackend(the.other, nodes);
    await assert.rejects(attachDisk(the.toolstack, spec, place), { kind, message: why });
    await assertNothingLeft(the.other);
  }
});

test('a backend that never gets ready is given up, and nothing is left', async () => {
  await using the = await scene();
  await assert.rejects(attachDisk(the.toolstack, spec, place, { backendTimeoutMs: 20 }), {
    kind: 'timeout',
    message: 'the backend of disk 51712 of guest 7 did not come within 20 ms',
  });
  await assertNothingLeft(the.other);
});

test('a disk without a script needs no hotplug step', async () => {
  await using the = await scene();
  await using _ = await playBackend(the.other, {});
  await attachDisk(the.toolstack, parseSpec(['/dev/vda,raw,xvda,rw,script=']), place);
  assert.equal(await the.other.read(`${paths.backend}/state`), '2');
});

test('an attach ends when its signal aborts, and nothing is left', async () => {
  await using the = await scene();
  await using _ = await playBackend(the.other, {});
  const stop = new AbortController();
  const attaching = attachDisk(the.toolstack, spec, place, { signal: stop.signal });
  stop.abort(new Error('the operator pressed control-C'));
  await assert.rejects(attaching, { message: 'the operator pressed control-C' });
  await assertNothingLeft(the.other);
});

test('an attach ends when someone removes the disk, early or late', async () => {
  await using the = await scene();
  for (const last of ['1', '2']) {
    await using _ = await follow(the.other, `${paths.backend}/state`, async (state) => {
      if (state === last) await removeDiskNodes(the.other, place);
      else if (state === '1') await the.other.write(`${paths.backend}/state`, '2');
    });
    await assert.rejects(attachDisk(the.toolstack, spec, place), { kind: 'gone' });
    await assertNothingLeft(the.other);
  }
});

test('a guest that does not let go keeps its disk, unless it is forced', async () => {
  await using the = await scene();
  await using backend = await playBackend(the.other, { 'hotplug-status': 'connected' });
  await attachDisk(the.toolstack, spec, place);
  await backend[Symbol.asyncDispose]();
  await assert.rejects(detachDisk(the.toolstack, place, { timeoutMs: 20 }), { kind: 'timeout' });
  assert.equal(await the.other.read(`${paths.backend}/state`), '5');
  assert.equal(await the.other.read(`${paths.frontend}/state`), '1');
  await detachDisk(the.toolstack, place, { force: true, timeoutMs: 20 });
  await assertNothingLeft(the.other);
});

test('the disk of a guest that cannot answer is closed by taking its frontend away', async () => {
  await using the = await scene();
  await using _ = await playBackend(the.other, { 'hotplug-status': 'connected' });
  assert.equal(await closeByForce(the.toolstack, place), false);
  await attachDisk(the.toolstack, spec, place);
  assert.equal(await closeByForce(the.toolstack, place), true);
  assert.equal(await the.other.read(paths.frontend), undefined);
  assert.equal(await the.other.read(`${paths.backend}/online`), '0');
});

test('a backend in another domain removes its directory itself', async () => {
  await using the = await scene();
  const remote = { ...place, backendDomid: 5 };
  const { backend } = diskPaths(remote);
  await using _ = await follow(the.other, `${backend}/state`, async (state) => {
    if (state === '1') {
      await the.other.write(`${backend}/state`, '2');
      await the.other.write(`${backend}/hotplug-status`, 'connected');
    }
    if (state === '5') await the.other.remove(backend);
  });
  await attachDisk(the.toolstack, spec, remote);
  await detachDisk(the.toolstack, remote);
  assert.equal(await the.other.read('/local/domain/5/backend'), undefined);
});
