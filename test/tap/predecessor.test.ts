/** What a tap that was killed has asked of a disk may come late; its successor waits for it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { abis } from '../../src/ring/blkif.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { startTapProcess, type TapProcess } from './tap-process.ts';

const needed = needsLoop();
const options = needed.skip === false ? needsProgram('mkfs.ext4', 'fsfreeze', 'losetup') : needed;
const WAIT_MS = 30_000;

/** A loop device on a file of a file system that can be frozen: then it answers nothing. */
interface SlowDevice extends Disposable {
  readonly path: string;
  /** Writes that it was given and has not ended. */
  underWay(): number;
  freeze(): void;
  thaw(): void;
}

function slowDevice(): SlowDevice {
  using stack = new DisposableStack();
  const run = (program: string, ...args: string[]): string =>
    execFileSync(program, args, { encoding: 'utf8' }).trim();
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-slow-'));
  stack.defer(() => rmSync(dir, { recursive: true }));
  const [image, mounted] = [join(dir, 'fs.img'), join(dir, 'mounted')];
  mkdirSync(mounted);
  writeFileSync(image, '');
  truncateSync(image, 32 << 20);
  run('mkfs.ext4', '-q', image);
  run('mount', '-o', 'loop', image, mounted);
  stack.defer(() => void run('umount', mounted));
  const file = join(mounted, 'disk.img');
  writeFileSync(file, new Uint8Array(4 << 20));
  const path = run('losetup', '--find', '--show', file);
  stack.defer(() => void run('losetup', '--detach', path));
  let frozen = false;
  const thaw = (): void => {
    if (frozen) run('fsfreeze', '--unfreeze', mounted);
    frozen = false;
  };
  stack.defer(thaw);
  const owned = stack.move();
  return {
    path,
    underWay() {
      const inflight = readFileSync(`/sys/block/${basename(path)}/inflight`, 'utf8');
      return Number(inflight.trim().split(/\s+/)[1]);
    },
    freeze() {
      run('fsfreeze', '--freeze', mounted);
      frozen = true;
    },
    thaw,
    [Symbol.dispose]: () => owned.dispose(),
  };
}

async function until(what: string, seen: () => boolean): Promise<void> {
  const deadline = performance.now() + WAIT_MS;
  while (!seen()) {
    assert.ok(performance.now() < deadline, `not seen: ${what}`);
    await sleep(5);
  }
}

test('a successor begins when its predecessor’s last request has ended', options, async () => {
  using device = slowDevice();
  await using tap = await startTapProcess();
  const [abi] = abis;
  assert.ok(abi);
  createGuestMemory(tap.guests, 1, 101);
  const sizes = { firstPage: 0, ringPages: 1, dataPages: 100, indirectSegments: 32 };
  using frontend = createRingFrontend({ folder: tap.guests, domid: 1, abi, ...sizes });
  await attach(tap, device.path, frontend, false);
  const write = (fill: number): { status?: number } => {
    const answer: { status?: number } = {};
    const data = new Uint8Array(4096).fill(fill);
    frontend.begin({ operation: 'write', sector: 0, data }, (status) => (answer.status = status));
    frontend.push();
    return answer;
  };
  device.freeze();
  const first = write(1);
  await until('the write is with the device', () => device.underWay() > 0);
  const restarted = tap.killAndRestart();
  await until('the successor waits', () =>
    tap.said.some((line) => /which does not answer/.test(line)),
  );
  assert.equal(device.underWay(), 1);
  device.thaw();
  await restarted;
  await attach(tap, device.path, frontend, true);
  await until('the guest has its answer', () => frontend.poll() && first.status !== undefined);
  const second = write(2);
  await until('and the next', () => frontend.poll() && second.status !== undefined);
  assert.deepEqual([first.status, second.status], [0, 0]);
  await tap.client.call('DELETE', '/v1/disks/vbd-1-51712');
  assert.equal(readFileSync(device.path)[0], 2);
});

async function attach(
  { client }: TapProcess,
  path: string,
  { ringReferences: references, port }: RingFrontend,
  takeUp: boolean,
): Promise<void> {
  const image = { path, format: 'raw', writable: true, direct: true };
  await client.call('PUT', '/v1/disks/vbd-1-51712', image);
  const ring = { domid: 1, queues: [{ references, port }], take_up: takeUp };
  await client.call('PUT', '/v1/disks/vbd-1-51712/ring', ring);
}
