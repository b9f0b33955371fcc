/** bin/vbd and bin/vbdd as processes, from the command line and over the control socket. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  linkSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openClient } from '../../src/cli/client.ts';
import type { LeaseView } from '../../src/daemon/api/shapes.ts';
import type { DiskView } from '../../src/daemon/api/shapes.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { openUnixClient } from '../../src/tap/unix-client.ts';
import { type ProcessHost, run, startProcessHost } from '../daemon/vbdd-process.ts';
import { until } from '../patience.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';

const options = needsLoop();
let kit: ProcessHost;
let web: Guest;
before(async () => {
  if (options.skip !== false) return;
  kit = await startProcessHost();
  web = await kit.host.createGuest({ name: 'web' });
});
after(async () => {
  if (options.skip === false) await kit[Symbol.asyncDispose]();
});

function image(name: string, sizeBytes = 1 << 20): string {
  const path = join(kit.dir, name);
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  return path;
}

test('attach, list, why and detach, from any folder', options, async () => {
  const path = image('a.img');
  const attached = await kit.vbd('attach', 'web', `${path},raw,xvda,rw`);
  assert.match(attached.stdout, /^xvda of web is .*a\.img on \/dev\/loop\d+ in [\d.]+ ms\n$/);
  assert.equal(attached.code, 0);
  const disk = await web.disk('xvda');
  await disk.write(0, Buffer.alloc(512, 'w'));

  const list = await kit.vbd('list');
  const [head = '', row = ''] = list.stdout.split('\n');
  assert.match(head, /^Guest +Domid +Vdev +State +Mode +Device +Shared +Path$/);
  assert.match(row, new RegExp(`^web +1 +xvda +attached +w +/dev/loop\\d+ +1 +${path}$`));
  const [view] = JSON.parse((await kit.vbd('list', '--json', 'web')).stdout) as DiskView[];
  assert.equal(view?.path, path);
  assert.deepEqual(JSON.parse((await kit.vbd('list', '--json', 'nobody')).stdout), []);

  const why = await kit.vbd('why', 'web', 'xvda');
  assert.match(why.stdout, /^xvda of web: attached\nbecause vbdkit holds \/dev\/loop\d+ for it\n/);
  const { facts, steps } = JSON.parse((await kit.vbd('why', '--json', '1', '51712')).stdout);
  assert.equal(facts.held.kind, 'loop');
  assert.deepEqual(steps, []);

  assert.equal((await kit.vbd('detach', 'web', 'xvda')).code, 0);
  await until('its loop device is free', () => boundLoops(kit.dir).size === 0);
  assert.equal((await kit.vbd('list')).stdout.split('\n').length, 2);
});

test('a dry run says what and why, and changes nothing', options, async () => {
  const path = image('dry.img');
  const { stdout, code } = await kit.vbd('attach', '--dry-run', 'web', `${path},raw,xvdc,rw`);
  assert.equal(code, 0);
  assert.match(stdout, /because it wants .*dry\.img for writing\n/);
  assert.match(stdout, /would bind a loop device to .*dry\.img/);
  assert.equal(boundLoops(kit.dir).size, 0);
  assert.equal(await kit.host.store.directory('/local/domain/0/backend/vbd'), undefined);
});

test(
  'a forbidden share is one sentence on stderr, in the API and in the dry run',
  options,
  async () => {
    const path = image('shared.img');
    linkSync(path, join(kit.dir, 'other-name.img'));
    await kit.vbd('attach', 'web', `${path},raw,xvda,rw`);
    const mail = await kit.host.createGuest({ name: 'mail' });
    const spec = `${join(kit.dir, 'other-name.img')},raw,xvda,ro`;
    const { stderr, code, stdout } = await kit.vbd('attach', 'mail', spec);
    const sentence = new RegExp(
      `^vbd: .*other-name\\.img is in use by guest web \\(domid 1\\) as xvda for writing, as ${path} — `,
    );
    assert.match(stderr, sentence);
    assert.deepEqual([code, stdout], [1, '']);
    const client = openClient(kit.socket);
    await assert.rejects(client.ask('POST /v1/disks', { body: { guest: 'mail', spec: [spec] } }), {
      kind: 'in-use',
      message: stderr.trim().replace('vbd: ', ''),
    });
    const dry = await kit.vbd('attach', '--dry-run', 'mail', spec);
    assert.match(dry.stdout, /would write hotplug-error: .*is in use by guest web/);
    assert.equal(
      await kit.host.store.directory(`/local/domain/0/backend/vbd/${mail.domid}`),
      undefined,
    );

    const clustered = join(kit.dir, 'other-name.img');
    const shared = await kit.vbd('attach', '--shared', 'mail', `${clustered},raw,xvda,rw`);
    assert.deepEqual([shared.code, shared.stderr], [0, '']);
    assert.equal(boundLoops(kit.dir).size, 1);
    await kit.vbd('detach', 'mail', 'xvda');
    await kit.vbd('detach', 'web', 'xvda');
    await mail.destroy();
  },
);

const wrong: [args: string[], code: number, stderr: RegExp][] = [
  [['attach', 'nobody', '/a,raw,xvda'], 1, /^vbd: there is no guest nobody — see xl list\n$/],
  [
    ['attach', 'web', '/nonexistent/a.img,raw,xvda'],
    1,
    /^vbd: \/nonexistent\/a\.img does not exist/,
  ],
  [['attach', 'web', '/dev/null,raw,xvda'], 2, /^vbd: \/dev\/null is a character device/],
  [['attach', 'web', '/a.img,raw,xvda,q'], 2, /^vbd: there is no access q — use r, ro, w, rw\n$/],
  [['attach', 'web', '/a.img,vmdk,xvda'], 1, /^vbd: \/a\.img does not exist/],
  [['detach', 'web', 'xvdz'], 1, /^vbd: guest web has no disk xvdz — see vbd list\n$/],
  [['why', 'web', 'xvdz'], 1, /has no disk xvdz/],
  [['resize', 'web', 'xvda', 'big'], 2, /big is not a size/],
  [['loop', '/nonexistent/a.img'], 1, /does not exist/],
  [['loop', '/nonexistent/a.img', '--offset', 'x', '--run', 'true'], 2, /x is not a size/],
  [['loop', '--detach', '/dev/loop999'], 1, /nobody was given \/dev\/loop999/],
  [['frobnicate'], 2, /No command registered for `frobnicate`/],
  [['attach', 'web'], 2, /Expected at least 2 argument/],
];
for (const [args, code, stderr] of wrong) {
  test(`vbd ${args.join(' ')}: one clear sentence and exit code ${code}`, options, async () => {
    const ran = await kit.vbd(...args);
    assert.match(ran.stderr, stderr);
    assert.equal(ran.code, code);
    assert.equal(ran.stdout, '');
  });
}

test('a disk grows while its guest runs, and never shrinks', options, async () => {
  const path = image('grow.img');
  await kit.vbd('attach', 'web', `${path},raw,xvdg,rw`);
  const disk = await web.disk('xvdg');
  const sectors = (): number => disk.description.sectors;
  assert.equal(sectors(), 2048);
  const { stdout } = await kit.vbd('resize', 'web', 'xvdg', '3M');
  assert.equal(stdout, 'xvdg of web has 3 MiB (3145728 bytes)\n');
  assert.equal(statSync(path).size, 3 << 20);
  // As on a real host: blkback looks at the size when a request comes, then tells the guest.
  await disk.write(0, Buffer.alloc(512));
  await until('the guest sees its new size', () => sectors() === 6144);
  await disk.write(6143, Buffer.alloc(512, 'e'));
  const shrunk = await kit.vbd('resize', 'web', 'xvdg', '1M');
  assert.match(shrunk.stderr, /a disk can only grow while it is attached/);
  assert.equal(statSync(path).size, 3 << 20);
  await kit.vbd('detach', 'web', 'xvdg');
});

test(
  'a loop device for a command lives as long as the command, with vbdd and without',
  options,
  async () => {
    const path = image('loop.img');
    const command = 'losetup --list --noheadings --output BACK-FILE,AUTOCLEAR $LOOP; exit 7';
    const args = ['loop', path, '--run', command];
    const with_ = await kit.vbd(...args);
    assert.match(with_.stdout, new RegExp(`^${path} +1\n$`));
    assert.equal(with_.code, 7);
    const vbd = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
    const without = await run(vbd, args, { VBDKIT_SOCKET: join(kit.dir, 'nobody') });
    assert.deepEqual([without.stdout, without.code], [with_.stdout, 7]);
    await until('its loop device is free', () => boundLoops(kit.dir).size === 0);
  },
);

test(
  'a loop device may be kept, listed and given back, and counts as a holder',
  options,
  async () => {
    const path = image('lease.img');
    const device = (await kit.vbd('loop', path)).stdout.trim();
    assert.match(device, /^\/dev\/loop\d+$/);
    const refused = await kit.vbd('attach', 'web', `${path},raw,xvdl,rw`);
    assert.match(refused.stderr, /lease\.img is in use by .* through a loop device for writing/);
    const [lease] = JSON.parse((await kit.vbd('loop', '--list', '--json')).stdout) as LeaseView[];
    assert.equal(lease?.device, device);
    assert.equal((await kit.vbd('loop', '--detach', device)).code, 0);
    await until('its loop device is free', () => boundLoops(kit.dir).size === 0);
  },
);

test('a caller may hand over what it has open, wherever it sees the file', options, async () => {
  const path = image('by-fd.img');
  const fd = openSync(path, 'r+');
  using held = await openClient(kit.socket).holdLoop({ fd });
  const [[number, file] = []] = boundLoops(kit.dir);
  assert.equal(held.value.number, number);
  assert.equal(file?.startsWith(kit.dir) || file?.startsWith('/proc'), true);
});

test('the control socket is its owner’s alone', options, () => {
  assert.equal(statSync(kit.socket).mode & 0o777, 0o600);
});

test('a second vbdd does not push the first aside', options, async () => {
  const vbdd = join(import.meta.dirname, '..', '..', 'bin', 'vbdd');
  const store = join(kit.dir, 'xenstored');
  const second = await run(vbdd, ['--store', store, '--socket', kit.socket, '--xl', 'never']);
  assert.match(second.stderr, /another vbdd works in \/.* — stop it/);
  assert.equal(second.code, 1);
});

test(
  'a vbdd that is killed leaves guests their disks, and the next one takes over',
  options,
  async () => {
    const path = image('killed.img');
    await kit.vbd('attach', 'web', `${path},raw,xvdk,rw`);
    const disk = await web.disk('xvdk');
    kit.vbdd.kill('SIGKILL');
    await once(kit.vbdd, 'exit');
    await disk.write(5, Buffer.alloc(512, 'k'));
    assert.equal(readFileSync(path).toString('latin1', 2560, 3072), 'k'.repeat(512));
    await kit.restart();
    const [view] = JSON.parse((await kit.vbd('list', '--json')).stdout) as DiskView[];
    assert.deepEqual([view?.state, view?.path], ['attached', path]);
    await kit.vbd('detach', 'web', 'xvdk');
    await until('its loop device is free', () => boundLoops(kit.dir).size === 0);
  },
);

test('wrong requests are answered, not suffered', options, async () => {
  const client = openUnixClient(kit.socket, { name: 'vbdd', advice: 'start it' });
  await assert.rejects(client.call('POST', '/v1/disks', { guest: 'web' }), { kind: 'invalid' });
  await assert.rejects(client.call('POST', '/v1/loops', {}), { message: /give either path or fd/ });
  await assert.rejects(client.call('GET', '/v2/disks'), { kind: 'not-found' });
  const status = await openClient(kit.socket).ask('GET /v1/status');
  assert.match(status.version, /^\d+\.\d+\.\d+$/);
});

const starts: [args: string[], sentence: RegExp][] = [
  [['--bogus'], /^vbdd: unknown option '--bogus' — see vbdd --help\n$/],
  [['--xl', 'maybe'], /xl: invalid option: expected one of "auto"\|"never"/],
  [
    ['--config', '/nonexistent'],
    /^vbdd: cannot read \/nonexistent — check the path of --config\n$/,
  ],
  [['--socket', '/dev/null/a'], /^vbdd: \/dev\/null cannot be worked in \(EEXIST\) — run as root/],
  [['--store', '/nonexistent'], /^vbdd: there is no xenstore at \/nonexistent — /],
];
for (const [args, sentence] of starts) {
  test(`vbdd ${args.join(' ')}: one sentence, and it does not start`, async () => {
    const vbdd = join(import.meta.dirname, '..', '..', 'bin', 'vbdd');
    const { stderr, code } = await run(vbdd, args);
    assert.match(stderr, sentence);
    assert.ok(code > 0);
  });
}

test('without vbdd a verb says so, and what to do', async () => {
  const vbd = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
  const { stderr, code } = await run(vbd, ['list'], { VBDKIT_SOCKET: '/nonexistent' });
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^vbd: vbdd does not answer at \/nonexistent — start it, or name its socket/,
  );
});

test('list says nothing of warnings where vbdd is too old to know any', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-older-'));
  const socket = join(folder, 'vbdd.sock');
  const names = { guest: 'web', vdev: 'xvda', kind: 'vbd', path: '/a.img', device: '/dev/loop1' };
  const disk = { ...names, domid: 1, devid: 51712, state: 'attached', mode: 'w', sharers: 1 };
  const answer = JSON.stringify({ disks: [{ ...disk, error: null, hold_ms: 1, files: [] }] });
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'application/json').end(answer);
  }).listen(socket);
  await once(server, 'listening');
  const vbd = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
  const { stdout, stderr } = await run(vbd, ['list'], { VBDKIT_SOCKET: socket });
  server.close();
  rmSync(folder, { recursive: true });
  assert.match(stdout, /^web +1 +xvda +attached/m);
  assert.equal(stderr, '');
});
