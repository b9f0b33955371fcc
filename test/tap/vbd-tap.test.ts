/** vbd-tap as a process: disks are opened, connected and let go of; it may be killed under load. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { openUnixClient } from '../../src/tap/unix-client.ts';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import { abis } from '../../src/ring/blkif.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import type { DiskStatistics } from '../../src/ring/statistics.ts';
import type { OpenedDisk } from '../../src/tap/orders.ts';
import { startTapProcess, tapProgram, type TapProcess } from './tap-process.ts';
import { patienceMs } from '../patience.ts';

const SECTORS = 4096;
const [abi] = abis;

function rawFile(tap: TapProcess, name = 'a.img'): string {
  const path = join(tap.folder, name);
  writeFileSync(path, '');
  truncateSync(path, SECTORS * 512);
  return path;
}

function guestOf(tap: TapProcess, domid: number): RingFrontend {
  assert.ok(abi);
  createGuestMemory(tap.guests, domid, 601);
  const sizes = { firstPage: 0, ringPages: 1, dataPages: 600, indirectSegments: 256 };
  return createRingFrontend({ folder: tap.guests, domid, abi, ...sizes });
}

async function attach(
  tap: TapProcess,
  name: string,
  path: string,
  domid: number,
  frontend: RingFrontend,
  takeUp = false,
): Promise<void> {
  const image = { path, format: 'raw', writable: true };
  const opened = await tap.client.call('PUT', `/v1/disks/${name}`, image);
  const { dev, ino } = statSync(path);
  const identity = `file:${dev >> 8}:${dev & 0xff}/${ino}`;
  const members = [{ identity, stack: [identity], mode: 'w', path }];
  const sizes = { sectors: SECTORS, cluster_bytes: 512, sector_bytes: 512 };
  assert.deepEqual(opened, { ...sizes, writable: true, depth: 1, members });
  const { ringReferences: references, port } = frontend;
  const ring = { domid, queues: [{ references, port }], take_up: takeUp };
  await tap.client.call('PUT', `/v1/disks/${name}/ring`, ring);
}

/** Waits until all that was begun is answered. */
async function answered(frontend: RingFrontend): Promise<void> {
  const untilMs = performance.now() + 20_000;
  while (frontend.inFlight > 0) {
    if (frontend.poll()) continue;
    assert.ok(performance.now() < untilMs, `${frontend.inFlight} requests are not answered`);
    await sleep(1);
  }
}

test('a disk is served from its image, and all is given back', async () => {
  await using tap = await startTapProcess();
  using frontend = guestOf(tap, 1);
  const path = rawFile(tap);
  await attach(tap, 'vbd-1-51712', path, 1, frontend);
  const data = new Uint8Array(8192).fill(5);
  frontend.begin({ operation: 'write', sector: 8, data }, (status) => assert.equal(status, 0));
  frontend.push();
  await answered(frontend);
  assert.deepEqual(readFileSync(path).subarray(4096, 12_288), Buffer.from(data));

  interface Status {
    readonly disks: { name: string; connected: boolean; statistics: DiskStatistics }[];
  }
  const { disks } = await tap.client.call<Status>('GET', '/v1/status');
  assert.deepEqual(
    disks.map(({ name, connected, statistics }) => [
      name,
      connected,
      statistics.kinds.write.requests,
    ]),
    [['vbd-1-51712', true, 1]],
  );
  const openCount = (): number => readdirSync(`/proc/${tap.pid}/fd`).length;
  const before = openCount();
  await tap.client.call('DELETE', '/v1/disks/vbd-1-51712');
  assert.ok(openCount() < before);
  assert.deepEqual(readdirSync(join(tap.folder, 'rings')), []);
});

const wrong: [
  what: string,
  method: 'PUT' | 'DELETE',
  path: string,
  body: object | undefined,
  says: RegExp,
][] = [
  [
    'a disk that is not open',
    'DELETE',
    '/v1/disks/x',
    undefined,
    /the tap has no disk x — open it first/,
  ],
  [
    'an image that is not there',
    'PUT',
    '/v1/disks/x',
    { path: '/none.img', format: 'raw', writable: true },
    /there is no \/none\.img/,
  ],
  [
    'a format that nobody knows',
    'PUT',
    '/v1/disks/x',
    { path: '/none.img', format: 'vdi', writable: true },
    /the request: format: /,
  ],
  ['another path', 'PUT', '/v2/x', {}, /the tap has no/],
];
test('wrong orders get one sentence', async () => {
  await using tap = await startTapProcess();
  for (const [what, method, path, body, says] of wrong) {
    await assert.rejects(tap.client.call(method, path, body), says, what);
  }
  using frontend = guestOf(tap, 1);
  const image = { path: rawFile(tap), format: 'raw', writable: true };
  await tap.client.call('PUT', '/v1/disks/y', image);
  const { ringReferences: references, port } = frontend;
  const connect = (changes: object, queue: object = {}): Promise<unknown> => {
    const queues = [{ references, port, ...queue }];
    return tap.client.call('PUT', '/v1/disks/y/ring', { domid: 1, queues, ...changes });
  };
  await assert.rejects(connect({ protocol: 'sparc-abi' }), /speaks sparc-abi, which is no ABI/);
  await assert.rejects(
    connect({}, { references: [1, 2, 3] }),
    /has 3 pages — a power of two, 16 at/,
  );
  await assert.rejects(connect({}, { references: [4000] }), { kind: 'gone' });
  await assert.rejects(connect({}, { port: 77 }), { kind: 'gone' });
  await assert.rejects(connect({ take_up: true }), /has no record of that ring/);
  await connect({});
  await assert.rejects(connect({}), { kind: 'exists' });
});

for (const how of ['killAndRestart', 'restart'] as const) {
  const what = how === 'restart' ? 'stopped' : 'killed';
  test(`a tap that is ${what} under load is taken up: every request is answered once`, async () => {
    await using tap = await startTapProcess();
    using frontend = guestOf(tap, 1);
    const path = rawFile(tap);
    const model = new Uint8Array(SECTORS * 512);
    await attach(tap, 'd', path, 1, frontend);
    let asked = 0;
    let told = 0;
    for (let round = 0; round < 6; round++) {
      // Each sector of the round once, so that their order does not matter.
      for (let i = 0; i < 400; i++) {
        const sector = (i * 10) % (SECTORS - 10);
        const data = new Uint8Array(4096).fill((round * 31 + i) & 0xff);
        const onAnswer = (status: number): void => {
          told += 1;
          assert.equal(status, 0);
        };
        while (!frontend.begin({ operation: 'write', sector, data }, onAnswer)) {
          frontend.push();
          if (!frontend.poll()) await sleep(0);
        }
        asked += 1;
        model.set(data, sector * 512);
        if (i !== 100 + 30 * round) continue;
        frontend.push();
        await tap[how]();
        await attach(tap, 'd', path, 1, frontend, true);
      }
      frontend.push();
      await answered(frontend);
      assert.equal(told, asked);
      assert.deepEqual(readFileSync(path), Buffer.from(model));
    }
  });
}

const xen = existsSync('/dev/xen/gntdev') && 'this is a Xen host';
test('what a killed tap has left of disks that there are no more is removed', async () => {
  await using tap = await startTapProcess();
  using one = guestOf(tap, 1);
  using other = guestOf(tap, 2);
  await attach(tap, 'vbd3-1-51712', rawFile(tap), 1, one);
  await attach(tap, 'vbd3-2-51712', rawFile(tap, 'b.img'), 2, other);
  await tap.killAndRestart();
  const left = (): string[] =>
    ['rings', 'statistics'].flatMap((folder) => readdirSync(join(tap.folder, folder)));
  assert.equal(left().length, 4);
  await tap.client.call('PUT', '/v1/kept', { names: ['vbd3-2-51712'] });
  assert.equal(left().length, 2);
  assert.ok(left().every((name) => name.startsWith('vbd3-2-51712')));
  await attach(tap, 'vbd3-2-51712', join(tap.folder, 'b.img'), 2, other, true);
  await tap.client.call('PUT', '/v1/kept', { names: [] });
  assert.equal(left().length, 2, 'what is open is kept');
});

test('without Xen it ends, and says why in one line', { skip: xen }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-tap-'));
  const args = ['--socket', join(folder, 'tap.sock')];
  const ended = promisify(execFile)(tapProgram, args, { timeout: 20_000 });
  const sentence = '/dev/xen/gntdev cannot be opened — run it as root on a Xen host';
  await assert.rejects(ended, ({ code, stderr }: { code: number; stderr: string }) => {
    assert.equal(code, 1);
    assert.match(stderr, new RegExp(`^vbd-tap: ${sentence}[^\\n]*\\n$`));
    return true;
  });
  rmSync(folder, { recursive: true });
});

test('a tap in the background lives on in a session of its own, one to a folder', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-tap-'));
  const socket = join(folder, 'tap.sock');
  const args = ['--socket', socket, '--guests', folder, '--workers', '1'];
  execFileSync(tapProgram, [...args, '--background'], { stdio: 'ignore', timeout: 20_000 });
  const pid = Number(readFileSync(join(folder, 'tap.pid'), 'utf8'));
  try {
    // In proc_pid_stat(5): its parent, its process group, its session.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /, '')
      .split(' ');
    assert.equal(Number(stat[3]), pid);
    const client = openUnixClient(socket, { name: 'vbd-tap', advice: 'start it' });
    const { pid: answers } = await client.call<{ pid: number }>('GET', '/v1/status');
    assert.equal(answers, pid);
    const second = promisify(execFile)(tapProgram, args, { timeout: patienceMs(20_000) });
    await assert.rejects(second, new RegExp(`another vbd-tap, process ${pid}, works in ${folder}`));
  } finally {
    process.kill(pid, 'SIGTERM');
  }
  while (existsSync(`/proc/${pid}`))
    await sleep(20, undefined, { signal: AbortSignal.timeout(15_000) });
  rmSync(folder, { recursive: true });
});

test('an image whose log is replayed in memory is given for reading', async () => {
  await using tap = await startTapProcess();
  const path = join(tap.folder, 'a.vhdx');
  using files = createFileTable();
  createImage(path, { format: 'vhdx', sizeBytes: 8 << 20, files });
  // As after a kill: it was not closed.
  const image = openImage(path, { format: 'vhdx', writable: true, files });
  createTransfer(files).write(image, Buffer.alloc(512, 5), 0);
  image[Symbol.dispose]();
  const asked = { path, format: 'vhdx', writable: false };
  const opened = await tap.client.call<OpenedDisk>('PUT', '/v1/disks/vbd-1-51712', asked);
  assert.deepEqual(
    opened.members.map((member) => member.path),
    [path],
  );
});
