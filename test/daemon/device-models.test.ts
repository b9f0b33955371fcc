/** qdisk's place: libexec/xen-qemu as libxl starts it, what libxl asks of it, and the disks behind it. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { silentLog } from '../../src/base/log.ts';
import { type DeviceModels, followDeviceModels } from '../../src/daemon/device-models.ts';
import { openRunFolder } from '../../src/daemon/outcomes.ts';
import { standInPath } from '../../src/daemon/scripts.ts';
import { openTap } from '../../src/daemon/tap-client.ts';
import { listenUnix } from '../../src/sys/socket.ts';
import { startTestHost, type TestHost } from '../host/test-host.ts';
import { needsLoop } from '../peers.ts';
import { startTapProcess, type TapProcess } from '../tap/tap-process.ts';
import { startTestDaemon, type TestDaemon, XVDA } from './test-daemon.ts';
import { makeImage } from './tap-kit.ts';

const options = needsLoop();

interface Kit extends AsyncDisposable {
  readonly host: TestHost;
  readonly vbdd: TestDaemon;
  readonly tap: TapProcess;
  readonly models: DeviceModels;
  readonly run: string;
  qmp(domid: number): string;
  standIn(...words: string[]): ChildProcess;
}

async function startKit(): Promise<Kit> {
  await using stack = new AsyncDisposableStack();
  const tap = stack.use(await startTapProcess());
  const host = stack.use(await startTestHost({ guestsFolder: tap.guests }));
  const run = join(host.dir, 'run');
  stack.use(openRunFolder(run));
  const store = stack.use(host.connect());
  const folder = join(run, 'device-models');
  const models = stack.use(await followDeviceModels({ folder, store, log: silentLog }));
  const client = stack.use(openTap(tap.socket, 8000));
  const standsIn = (domid: number): boolean => models.standsIn(domid);
  const vbdd = stack.use(await startTestDaemon(host, { tap: client, standsIn }));
  models.onChange((domid) => vbdd.disks.callAll(({ key }) => key.domid === domid));
  const children: ChildProcess[] = [];
  stack.defer(() => {
    for (const child of children) child.kill();
  });
  const owned = stack.move();
  const env = { ...process.env, VBDKIT_RUN: run };
  return {
    host,
    vbdd,
    tap,
    models,
    run,
    qmp: (domid) => join(host.dir, `qmp-libxl-${domid}`),
    standIn(...words) {
      const child = spawn(standInPath, words, { env, stdio: 'ignore' });
      children.push(child);
      return child;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** As libxl 4.20 starts it for a PV guest with nothing but disks. */
function modelWords(domid: number, socket: string): string[] {
  const chardev = `socket,id=libxl-cmd,path=${socket},server=on,wait=off`;
  const monitor = 'chardev=libxl-cmd,mode=control';
  const rest = ['-nodefaults', '-no-user-config', '-xen-attach', '-name', 'web', '-vnc', 'none'];
  const last = ['-display', 'none', '-nographic', '-machine', 'xenpv', '-m', '160'];
  const first = ['-xen-domid', String(domid), '-no-shutdown', '-chardev', chardev, '-mon', monitor];
  return [...first, ...rest, ...last];
}

/** Says each command to a QMP server and returns what it answers. */
async function converse(path: string, commands: string[]): Promise<unknown[]> {
  const client = connect(path);
  const lines = createInterface({ input: client })[Symbol.asyncIterator]();
  const heard: unknown[] = [JSON.parse((await lines.next()).value as string)];
  for (const execute of commands) {
    client.write(`${JSON.stringify({ execute, id: 7 })}\r\n`);
    heard.push(JSON.parse((await lines.next()).value as string));
  }
  client.destroy();
  return heard;
}

const soon = { signal: AbortSignal.timeout(30_000) };

test(
  'a guest of kind qdisk has its disk on the ring, with a stand-in for its qemu',
  options,
  async () => {
    await using kit = await startKit();
    const { host, models } = kit;
    const guest = await host.createGuest({ name: 'web' });
    // libxl writes the disk first, and starts the device model then.
    const path = makeImage(host.dir, 'a.vhd', 'vhd');
    const attached = guest.attach(`backendtype=qdisk,format=vhd,vdev=xvda,target=${path}`);
    while ((await host.store.read(`/local/domain/0/backend/qdisk/1/${XVDA}/state`)) === undefined) {
      await sleep(5, undefined, soon);
    }
    const child = kit.standIn(...modelWords(1, kit.qmp(1)));
    while ((await host.store.read('/local/domain/0/device-model/1/state')) !== 'running') {
      await sleep(5, undefined, soon);
    }
    const [greeting, ...answers] = await converse(kit.qmp(1), [
      'qmp_capabilities',
      'query-chardev',
      'stop',
    ]);
    assert.ok((greeting as { QMP?: object }).QMP);
    assert.deepEqual(answers.slice(0, 2), [
      { return: {}, id: 7 },
      { return: [], id: 7 },
    ]);
    assert.equal((answers[2] as { error: { class: string } }).error.class, 'CommandNotFound');
    await attached;
    const disk = await guest.disk('xvda');
    await disk.write(0, new Uint8Array(512).fill(7));
    assert.deepEqual([...(await disk.read(0, 1))], Array(512).fill(7));
    // At destroy libxl waits for no state of the disk: its nodes go at once.
    for (const end of ['0/device-model/1', '1/device', '0/backend/qdisk']) {
      await host.store.remove(`/local/domain/${end}`);
    }
    child.kill('SIGHUP');
    await once(child, 'exit');
    while (models.standsIn(1)) await sleep(5, undefined, soon);
    assert.equal(existsSync(kit.qmp(1)), false);
    const opened = async (): Promise<object[]> =>
      (await kit.tap.client.call<{ disks: object[] }>('GET', '/v1/status')).disks;
    while ((await opened()).length > 0) await sleep(20, undefined, soon);
  },
);

test(
  'libxl’s question what its qemu can do is answered on the socket that it made',
  options,
  async () => {
    await using kit = await startKit();
    const path = join(kit.host.dir, 'probe');
    using listening = listenUnix(path);
    const chardev = 'socket,id=libxl-cmd,fd=16,server=on,wait=off';
    const words = ['-S', '-nodefaults', '-machine', 'none,accel=xen', '-chardev', chardev];
    const stdio = Array.from({ length: 17 }, (_, fd) => (fd === 16 ? listening.number : 'ignore'));
    const env = { ...process.env, VBDKIT_RUN: kit.run };
    const child = spawn(standInPath, words, { env, stdio: stdio });
    const ended = once(child, 'exit');
    const commands = ['qmp_capabilities', 'query-command-line-options', 'quit'];
    const answers = await converse(path, commands);
    assert.deepEqual(answers.at(-1), { return: {}, id: 7 });
    assert.deepEqual(await ended, [0, null]);
  },
);

test('who needs a true qemu gets it as it was started', options, async () => {
  await using kit = await startKit();
  const bin = join(kit.host.dir, 'bin');
  mkdirSync(bin);
  const link = join(bin, 'xen-qemu-system-i386');
  symlinkSync(standInPath, link);
  writeFileSync(`${link}.xen`, '#!/bin/sh\nprintf "%s\\n" "$@"\n', { mode: 0o755 });
  const hvm = [
    '-xen-domid',
    '3',
    '-vnc',
    'none',
    '-nographic',
    '-machine',
    'xenfv',
    '-name',
    'a b',
  ];
  const child = spawn(link, hvm, { stdio: ['ignore', 'pipe', 'inherit'] });
  const heard: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) heard.push(line);
  assert.deepEqual(heard, hvm);
  assert.equal(kit.models.standsIn(3), false);
  // Dom0's own: its disks are vbdd's, and there is nothing to wait for.
  const own = kit.standIn(
    '-xen-domid',
    '0',
    '-xen-attach',
    '-nographic',
    '-M',
    'xenpv',
    '-daemonize',
  );
  assert.deepEqual(await once(own, 'exit'), [0, null]);
  while (!kit.models.standsIn(0)) await sleep(5, undefined, soon);
});
