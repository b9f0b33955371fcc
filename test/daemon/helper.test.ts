/** libexec/block-vbd as libxl runs it, beside a vbdd that is there, busy, dead or new. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { sleep } from '../../src/base/deadline.ts';
import { helperPath } from '../../src/daemon/scripts.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { stopProcess } from '../stop-process.ts';
import { boundLoops } from '../sys/losetup.ts';
import { image, type ProcessHost, type Ran, run, startProcessHost } from './vbdd-process.ts';

const options = needsLoop();
const xvda = 'backend/vbd/1/51712';
let kit: ProcessHost;
let guest: Guest;
beforeEach(async () => {
  if (options.skip !== false) return;
  kit = await startProcessHost();
  guest = await kit.host.createGuest({ name: 'web' });
});
afterEach(async () => {
  if (options.skip === false) await kit[Symbol.asyncDispose]();
});

const environment = (path: string): Record<string, string> => ({
  XENBUS_PATH: path,
  XENBUS_TYPE: 'vbd',
  XENBUS_BASE_PATH: 'backend',
  VBDKIT_RUN: kit.dir,
  VBDKIT_CONFIG: join(kit.dir, 'vbdkit.conf'),
});

const helper = (verb: string, path = xvda): Promise<Ran> =>
  run(helperPath, [verb], environment(path));

/** Resolves once the helper waits: it has its FIFO open as number 4. */
async function startWaiting(): Promise<{ child: ChildProcess; ended: Promise<number | null> }> {
  const child = spawn(helperPath, ['add'], {
    env: { ...process.env, ...environment(xvda) },
    stdio: 'ignore',
  });
  const ended = once(child, 'exit').then(([code]) => code as number | null);
  while (child.exitCode === null && !existsSync(`/proc/${child.pid}/fd/4`)) await sleep(2);
  return { child, ended };
}

/** Until vbdd runs again it sees nothing. */
async function paused(work: () => Promise<void>): Promise<void> {
  try {
    stopProcess(kit.vbdd);
    await work();
  } finally {
    kit.vbdd.kill('SIGCONT');
  }
}

test('an outcome that was known before the helper came is answered at once', options, async () => {
  await guest.attach(`${image(kit, 'a.img')},raw,xvda,rw,script=block-vbd`);
  for (const _ of [1, 2])
    assert.deepEqual(await helper('add'), { code: 0, stdout: '', stderr: '' });
});

test('a disk that vbdd has not seen yet is waited for', options, async () => {
  const path = image(kit, 'a.img');
  let ended: Promise<number | null> | undefined;
  let attached: Promise<unknown> | undefined;
  await paused(async () => {
    const waiting = await startWaiting();
    ended = waiting.ended;
    attached = guest.attach(`${path},raw,xvda,rw,script=block-vbd`);
    assert.equal(waiting.child.exitCode, null);
  });
  assert.equal(await ended, 0);
  await attached;
});

test('many helpers wait at once, and one that is killed harms none', options, async () => {
  const path = image(kit, 'a.img');
  const ends: Promise<number | null>[] = [];
  let attached: Promise<unknown> | undefined;
  await paused(async () => {
    for (let count = 0; count < 8; count++) ends.push((await startWaiting()).ended);
    const killed = await startWaiting();
    killed.child.kill('SIGKILL');
    assert.equal(await killed.ended, null);
    attached = guest.attach(`${path},raw,xvda,rw,script=block-vbd`);
  });
  assert.deepEqual(
    await Promise.all(ends),
    Array.from({ length: 8 }, () => 0),
  );
  await attached;
});

test(
  'a refusal is handed on in vbdd’s own words, and a later try is another one',
  options,
  async () => {
    const path = image(kit, 'a.img');
    await guest.attach(`${path},raw,xvda,rw,script=block-vbd`);
    const mail = await kit.host.createGuest({ name: 'mail' });
    const backend = `/local/domain/0/backend/vbd/${mail.domid}/51712`;
    const nodes = { state: '2', online: '1', params: path, mode: 'w', script: 'block-vbd' };
    const write = (): Promise<unknown> =>
      kit.host.store.transaction(async (tx) => {
        for (const [name, value] of Object.entries(nodes))
          void tx.write(`${backend}/${name}`, value);
      });
    await write();
    const refused = await helper('add', `backend/vbd/${mail.domid}/51712`);
    assert.equal(refused.code, 1);
    assert.match(refused.stderr, /^block-vbd: .*a\.img is in use by guest web \(domid 1\) as xvda/);
    const error = await kit.host.store.read(`${backend}/hotplug-error`);
    assert.equal(refused.stderr, `block-vbd: ${error}\n`);

    await guest.detach('xvda');
    await paused(async () => {
      await helper('remove', `backend/vbd/${mail.domid}/51712`);
      await kit.host.store.remove(backend);
      await write();
    });
    assert.equal((await helper('add', `backend/vbd/${mail.domid}/51712`)).code, 0);
    await kit.host.store.remove(backend);
  },
);

test('a vbdd that does not run is told of at once', options, async () => {
  kit.vbdd.kill('SIGTERM');
  await once(kit.vbdd, 'exit');
  const ran = await helper('add');
  assert.match(ran.stderr, /^block-vbd: vbdd is not running — start it/);
  assert.equal(ran.code, 1);
});

test('a vbdd that never ran is told of at once', options, async () => {
  const ran = await run(helperPath, ['add'], { ...environment(xvda), VBDKIT_RUN: '/nonexistent' });
  assert.match(ran.stderr, /vbdd is not running/);
  assert.equal(ran.code, 1);
});

test('a vbdd that dies while a helper waits ends the wait', options, async () => {
  const waiting = await startWaiting();
  kit.vbdd.kill('SIGKILL');
  assert.equal(await waiting.ended, 1);
});

test(
  'what an earlier vbdd left counts no more; what it attached is answered',
  options,
  async () => {
    await guest.attach(`${image(kit, 'a.img')},raw,xvda,rw,script=block-vbd`);
    const outcomes = join(kit.dir, 'outcomes');
    kit.vbdd.kill('SIGKILL');
    await once(kit.vbdd, 'exit');
    writeFileSync(join(outcomes, 'vbd-9-51712'), 'connected\n');
    assert.match((await helper('add')).stderr, /vbdd is not running/);
    await kit.restart();
    assert.deepEqual(readdirSync(outcomes), ['vbd-1-51712']);
    assert.equal((await helper('add')).code, 0);
  },
);

test('nothing is left of a disk that goes, and removing waits for nobody', options, async () => {
  await guest.attach(`${image(kit, 'a.img')},raw,xvda,rw,script=block-vbd`);
  const file = join(kit.dir, 'outcomes', 'vbd-1-51712');
  await helper('add');
  assert.equal(readFileSync(file, 'utf8'), 'connected\n');
  assert.deepEqual(await helper('remove'), { code: 0, stdout: '', stderr: '' });
  await guest.detach('xvda');
  while (existsSync(file)) await sleep(2, AbortSignal.timeout(5000));
  assert.equal((await helper('remove')).code, 0);
});

test('the helper is one program, and starts no other', needsProgram('strace'), async (t) => {
  if (options.skip !== false) return t.skip(options.skip);
  await guest.attach(`${image(kit, 'a.img')},raw,xvda,rw,script=block-vbd`);
  for (const verb of ['add', 'remove']) {
    const output = join(kit.dir, 'strace.txt');
    const args = ['-f', '-qq', '-e', 'trace=process', '-o', output, helperPath, verb];
    assert.equal((await run('strace', args, environment(xvda))).code, 0);
    const calls = readFileSync(output, 'utf8').split('\n');
    assert.equal(calls.filter((line) => line.includes('execve(')).length, 1);
    assert.deepEqual(
      calls.filter((line) => /\b(v?fork|clone3?)\(/.test(line)),
      [],
    );
  }
});

test(
  'where no tap serves, a disk of kind vbd3 goes to the script that was moved aside',
  options,
  async () => {
    writeFileSync(join(kit.dir, 'vbdkit.conf'), 'tap = ""\n');
    const link = join(kit.dir, 'block-tap');
    symlinkSync(helperPath, link);
    writeFileSync(`${link}.xen`, '#!/bin/sh\necho "official $1"; exit 7\n', { mode: 0o755 });
    const ran = await run(link, ['add'], environment('backend/vbd3/1/51712'));
    assert.deepEqual([ran.stdout, ran.code], ['official add\n', 7]);
    assert.equal((await run(link, ['remove'], environment(xvda))).code, 0);
  },
);

test('without one it is refused in one sentence', options, async () => {
  writeFileSync(join(kit.dir, 'vbdkit.conf'), "tap = ''\n");
  const ran = await helper('add', 'backend/vbd3/1/51712');
  assert.match(ran.stderr, /no tap serves backend\/vbd3\/1\/51712 here — leave backendtype out/);
  assert.equal(ran.code, 1);
  assert.equal(boundLoops(kit.dir).size, 0);
});
