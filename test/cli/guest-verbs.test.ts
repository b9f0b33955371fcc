/** Verbs on guests' disks as people and programs see them: text, columns, trees, JSON, events, figures. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { linkSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test, type TestContext } from 'node:test';
import type { DiskEvent } from '../../src/daemon/api/shapes.ts';
import type { UserView } from '../../src/daemon/api/shapes.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { image, type ProcessHost, startProcessHost } from '../daemon/vbdd-process.ts';
import { needsLoop } from '../peers.ts';
import { shapeOf } from '../shape.ts';
import { jsonExamples, ringVerbs } from './json-examples.ts';

const options = needsLoop();
const vbd = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
let kit: ProcessHost;
let web: Guest;
before(async () => {
  if (options.skip !== false) return;
  kit = await startProcessHost();
  web = await kit.host.createGuest({ name: 'web' });
  await kit.host.createGuest({ name: 'mail' });
  await kit.vbd('attach', 'web', `${image(kit, 'web.img')},raw,xvda,rw`);
  await kit.vbd('attach', 'web', `${image(kit, 'kernel.img')},raw,xvdb,ro`);
  await kit.vbd('attach', 'mail', `${join(kit.dir, 'kernel.img')},raw,xvdb,ro`);
});
after(async () => {
  if (options.skip === false) await kit[Symbol.asyncDispose]();
});

/** Compares with test/cli/golden/NAME.txt; node --test-update-snapshots writes that anew. */
function isGolden(context: TestContext, name: string, text: string): void {
  const plain = text
    .replaceAll(kit.dir, '/srv')
    .replaceAll(/\/dev\/loop\d+/g, '/dev/loopN')
    .replaceAll(/(?<=\S) {3,}/g, '  ')
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replaceAll(/"hold_ms": [\d.]+/g, '"hold_ms": 0.5');
  const path = join(import.meta.dirname, 'golden', `${name}.txt`);
  context.assert.fileSnapshot(plain, path, { serializers: [(value: string) => value] });
}

const golden: [name: string, args: string[]][] = [
  ['list', ['list']],
  ['list-of-one', ['list', 'mail']],
  ['list-columns', ['list', '-o', 'vdev,guest,mode', '--no-headings']],
  ['list-tree', ['list', '--tree']],
  ['list-json', ['list', '--json', '2']],
  ['block-list', ['block-list', 'web', '-o', 'guest,vdev']],
  ['who', ['who', 'kernel.img']],
  ['who-json', ['who', '--json', 'kernel.img']],
  ['attach-dry-run', ['-N', 'attach', 'mail', 'web.img,raw,xvdc,r']],
];
for (const [name, args] of golden) {
  test(`vbd ${args.join(' ')} prints what it always did`, options, async (context) => {
    const named = args.map((word) => word.replace(/^(web|kernel)\.img/, `${kit.dir}/$1.img`));
    const { stdout, stderr } = await kit.vbd(...named);
    assert.equal(stderr, '');
    isGolden(context, name, stdout);
  });
}

test(
  'who finds users by what a file is, and says by its exit code that there are none',
  options,
  async () => {
    const other = join(kit.dir, 'other-name.img');
    linkSync(join(kit.dir, 'web.img'), other);
    const users = JSON.parse((await kit.vbd('who', '--json', other)).stdout) as UserView[];
    assert.deepEqual(
      users.map(({ domid, vdev, mode }) => [domid, vdev, mode]),
      [[1, 'xvda', 'w']],
    );
    const device = execFileSync('losetup', ['--noheadings', '--output', 'NAME', '-j', other]);
    const byDevice = await kit.vbd('who', '-o', 'user', '--no-headings', String(device).trim());
    assert.equal(byDevice.stdout, 'guest web (domid 1) as xvda\n');
    const nobody = await kit.vbd('who', image(kit, 'idle.img'));
    assert.deepEqual([nobody.code, nobody.stdout], [1, '']);
    assert.match(nobody.stderr, /^vbd: nobody uses .*idle\.img\n$/);
    const unknown = await kit.vbd('who', '/nonexistent');
    assert.equal(unknown.code, 2, 'nobody was not the answer');
    assert.match(unknown.stderr, /^vbd: \/nonexistent does not exist/);
  },
);

test('events come as lines, each once, in the order in which they happened', options, async () => {
  const path = image(kit, 'event.img');
  const child = spawn(vbd, ['events', '--json', 'web'], {
    env: { ...process.env, VBDKIT_SOCKET: kit.socket },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<DiskEvent> =>
    JSON.parse(String((await lines.next()).value)) as DiskEvent;
  // It tells nobody when it listens: a disk of the other guest, until one of its own is told of.
  const seen: DiskEvent[] = [];
  const first = next();
  const told = new AbortController();
  void first.then(() => told.abort());
  while (!told.signal.aborted) {
    await kit.vbd('attach', 'web', `${path},raw,xvde,rw`);
    await kit.vbd('detach', 'web', 'xvde');
  }
  seen.push(await first);
  while (seen.at(-1)?.event !== 'gone') seen.push(await next());
  await kit.vbd('attach', 'mail', `${path},raw,xvde,rw`);
  await kit.vbd('attach', 'web', `${path},raw,xvde,rw`);
  while (seen.at(-1)?.event !== 'refused') seen.push(await next());
  child.kill('SIGINT');
  await exited;
  await kit.vbd('detach', 'mail', 'xvde');
  assert.ok(seen.every(({ disk }) => disk.guest === 'web' && disk.vdev === 'xvde'));
  const times = seen.map(({ time }) => Date.parse(time));
  assert.deepEqual(
    times,
    times.toSorted((a, b) => a - b),
  );
  const refusal = seen.at(-1)?.disk.error ?? '';
  assert.match(refusal, /event\.img is in use by guest mail \(domid 2\) as xvde for writing — /);
  for (const [index, { event }] of seen.entries()) assert.notEqual(event, seen[index + 1]?.event);
});

type Row = { disk: { vdev: string }; writes: number; write_bytes: number };

/** Two tables of `vbd top`, a second apart, while xvda is written to. */
async function topUnderLoad(): Promise<Row[][]> {
  const disk = await web.disk('xvda');
  const running = kit.vbd('top', '--json', '-i', '2', '-d', '1', '-s', 'writes');
  const over = new AbortController();
  void running.then(() => over.abort());
  while (!over.signal.aborted) await disk.write(0, Buffer.alloc(4096));
  const lines = (await running).stdout.trim().split('\n');
  return lines.map((line) => JSON.parse(line) as Row[]);
}

/** Each write was of 4096 bytes, but for those that were just being counted at either end of the second. */
function isLoaded([busy]: Row[]): boolean {
  const { writes = 0, write_bytes: bytes = 0 } = busy ?? {};
  return writes > 0 && Math.abs(bytes - 4096 * writes) <= Math.max(2 * 4096, bytes / 10);
}

test('top shows in each table what disks did since the one before', options, async () => {
  let tables = await topUnderLoad();
  // Where we stood still for a second, or vbdd between two counters, that second tells of it.
  for (let tries = 1; tries < 5 && !tables.every(isLoaded); tries++) tables = await topUnderLoad();
  assert.equal(tables.length, 2);
  for (const table of tables) {
    assert.equal(table.length, 3);
    const [busy, ...idle] = table;
    assert.equal(busy?.disk.vdev, 'xvda');
    assert.ok(isLoaded(table), JSON.stringify(busy));
    assert.ok(idle.every(({ writes }) => writes === 0));
  }
  const batch = await kit.vbd('top', '-b', '-i', '1', '-d', '0.1', '-o', 'vdev,reads,readus');
  assert.match(batch.stdout, /^Vdev {2}Reads\/s {2}Read µs\n(xvd[ab] {2}0 {8}-\n){3}\n$/);
});

test('top on a terminal sorts by a key, and gives the terminal back', options, async () => {
  const env = { ...process.env, VBDKIT_SOCKET: kit.socket };
  // A terminal of its own; what is typed there comes from us.
  const words = ['--quiet', '--return', '--command', `${vbd} top -d 0.1`, '/dev/null'];
  const child = spawn('script', words, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  let shown = '';
  const toType = [
    ['by bytes', '>>><>'],
    ['by guest', 'q'],
  ];
  for await (const part of child.stdout) {
    shown += String(part);
    if (shown.includes(toType[0]?.[0] ?? 'nothing')) child.stdin.write(toType.shift()?.[1] ?? '');
  }
  assert.deepEqual(await exited, [0, null]);
  assert.deepEqual(toType, []);
  const end = shown.lastIndexOf('\u001b[?7h\u001b[?25h\u001b[?1049l');
  assert.ok(shown.indexOf('\u001b[?1049h') < end && !shown.slice(end).includes('by '));
});

test('stat shows what blkback counts, where that serves the disk', options, async () => {
  const { stdout } = await kit.vbd('stat', 'web', 'xvdb');
  assert.match(stdout, /^requests {2}number {2}bytes {2}errors .*\nread +0 +0 B +- +- +- +-\n/);
  assert.match(stdout, /\ncounted by blkback\n$/);
  const limited = await kit.vbd('limit', 'web', 'xvdb', '--iops', '10');
  assert.match(limited.stderr, /is not served by vbd-tap — /);
  const paused = await kit.vbd('pause', 'web', 'xvdb');
  assert.match(paused.stderr, /^vbd: xvdb of domain 1 is not served by vbd-tap on its ring — /);
});

test('completion knows verbs, flags, values, guests and their disks', options, async () => {
  const complete = async (...words: string[]): Promise<string[]> =>
    (await kit.vbd('__complete', ...words)).stdout.split('\n').slice(0, -1);
  assert.deepEqual(await complete('li'), ['list', 'limit']);
  assert.deepEqual(await complete('block-l'), ['block-list']);
  assert.deepEqual(await complete('list', '--t'), ['--tree']);
  assert.deepEqual(await complete('why', ''), ['web', 'mail']);
  assert.deepEqual(await complete('why', 'web', ''), ['xvda', 'xvdb']);
  assert.deepEqual(await complete('detach', '-f', 'm'), ['mail']);
  assert.deepEqual(await complete('attach', 'web', '/'), []);
  assert.deepEqual(await complete('map', '--output', 'j'), ['json']);
  assert.deepEqual(await complete('info', ''), []);
  assert.deepEqual(await complete('frobnicate', ''), []);
});

test('the examples of docs/json.md have the shape of what is printed', options, async () => {
  image(kit, 'idle.img');
  await kit.vbd('loop', image(kit, 'lease.img'));
  // Those of disks on rings are tap-verbs.test.ts's.
  const examples = jsonExamples().filter(({ words }) => !ringVerbs.test(words));
  assert.ok(examples.length >= 6);
  for (const { words, shape } of examples) {
    const args = words.replaceAll('/srv/', `${kit.dir}/`).split(' ');
    const { stdout, stderr } = await kit.vbd(...args);
    assert.equal(stderr, '', words);
    assert.deepEqual(shapeOf(JSON.parse(stdout)), shape, words);
  }
});

test('-v says what is asked and what is behind a failure, -T when', options, async () => {
  const asked = await kit.vbd('-v', 'why', 'web', 'xvda', '--json');
  assert.match(
    asked.stderr,
    /^vbd: asks vbdd at .*sock: GET \/v1\/disks\/web\/xvda\/why\nvbd: answered after [\d.]+ \w+\n$/,
  );
  assert.equal(JSON.parse(asked.stdout).disk.vdev, 'xvda');
  const missing = await kit.vbd('-vT', 'info', '/nonexistent');
  const stamp = String.raw`\d{4}-\d\d-\d\dT[\d:.]+Z \[\d+\] `;
  assert.match(
    missing.stderr,
    new RegExp(`^${stamp}vbd: there is no /nonexistent\n(${stamp}vbd: behind it: .+\n)+$`),
  );
  assert.equal(missing.code, 1);
  const dry = await kit.vbd('-T', '-N', 'attach', 'web', `${kit.dir}/web.img,raw,xvdq,r`);
  assert.match(dry.stdout, /^because .*\n(?:.*\n)*would bind /);
  const { stdout } = await kit.vbd('__complete', '-v', 'eve');
  assert.equal(stdout, 'events\n');
});

test('what a verb has done is JSON where that is wanted', options, async () => {
  const limited = await kit.vbd('limit', '--json', 'web', 'xvda', '--none');
  assert.match(limited.stderr, /is not served by vbd-tap/);
  const scripts = join(kit.dir, 'scripts');
  mkdirSync(scripts);
  writeFileSync(join(scripts, 'block'), '#!/bin/sh\n');
  const setup = await kit.vbd('setup', '--json', '--dry-run', '--script-dir', scripts);
  const { done, changes } = JSON.parse(setup.stdout) as { done: boolean; changes: string[] };
  assert.equal(done, false);
  assert.ok(changes.length > 0 && changes.every((says) => !says.startsWith('would')));
  const [one, other] = [image(kit, 'one.img', 1024), image(kit, 'other.img', 1024)];
  writeFileSync(other, Buffer.alloc(1024, 'x'));
  const compared = await kit.vbd('compare', '--json', '-f', 'raw', '-F', 'raw', one, other);
  const sizes = [1024, 1024];
  assert.deepEqual(JSON.parse(compared.stdout), {
    identical: false,
    what: 'content',
    offset: 0,
    'virtual-sizes': sizes,
  });
  assert.equal(compared.code, 1);
  const converted = await kit.vbd('convert', '--json', '-p', '-O', 'qcow2', one, `${one}.qcow2`);
  const info = await kit.vbd('info', '--json', `${one}.qcow2`);
  assert.deepEqual(JSON.parse(converted.stdout), JSON.parse(info.stdout));
});
