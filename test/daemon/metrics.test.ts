/** Metrics: what Prometheus' own tool finds right, and the figures that a guest's requests make. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { basename, join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Guest } from '../../src/host/embedded-host.ts';
import { metricsPage } from '../../src/daemon/metrics-text.ts';
import { serveMetrics } from '../../src/daemon/metrics-server.ts';
import { metricsText } from '../../src/daemon/metrics.ts';
import { createTally, type Tally } from '../../src/daemon/tally.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage } from '../../src/image/open.ts';
import { freePort } from '../free-port.ts';
import { needs, needsLoop, peersDir } from '../peers.ts';
import { spec, startTapKit, type TapKit } from './tap-kit.ts';

const promtool = join(peersDir, 'promtool');
const judge = needs(existsSync(promtool), 'no promtool — run tools/peers.sh');
const loop = needsLoop();
const options = loop.skip === false ? judge : loop;
const monitoring = join(import.meta.dirname, '..', '..', 'docs', 'monitoring');

let kit: TapKit;
let tally: Tally;
let raw: string;
let web: Guest;
before(async () => {
  if (options.skip !== false) return;
  kit = await startTapKit();
  tally = createTally(kit.vbdd);
  web = await kit.host.createGuest({ name: 'we"b' });
  await web.attach(spec('vhd', kit.image('web.vhd', 'vhd')));
  raw = join(kit.host.dir, 'raw.img');
  writeFileSync(raw, 'x');
  truncateSync(raw, 1 << 20);
  await web.attach(`vdev=xvdb,script=block-vbd,target=${raw}`);
  const disk = await web.disk('xvda');
  for (const sector of [0, 8, 16]) await disk.write(sector, new Uint8Array(4096));
  await disk.read(0, 8);
});
after(async () => {
  tally?.[Symbol.dispose]();
  await kit?.[Symbol.asyncDispose]();
});

const names = new Map<number, string>();

function text(mostDisks = 10): Promise<string> {
  const own = { daemon: kit.vbdd, tap: { isThere: true }, tally, names, version: '1.2.3' };
  return metricsText({ ...own, sysfs: '/sys', mostDisks });
}

/** A sample's value, by its name and labels as they are printed. */
function valueOf(page: string, sample: string): number {
  const line = page.split('\n').find((each) => each.startsWith(`${sample} `));
  assert.ok(line, `${sample} is not in\n${page}`);
  return Number(line.slice(sample.length + 1));
}

function tool(args: readonly string[], input = ''): string {
  const { stdout, stderr, status } = spawnSync(promtool, args, { input, encoding: 'utf8' });
  assert.equal(status, 0, `${stdout}${stderr}`);
  return `${stdout}${stderr}`;
}

test('promtool finds no fault in the metrics', options, async () => {
  assert.equal(tool(['check', 'metrics'], await text()), '');
});

test('a disk on its ring has what its guest did', options, async () => {
  const page = await text();
  const disk = 'guest="we\\"b",vdev="xvda"';
  const one = (name: string, more = ''): number =>
    valueOf(page, `vbdkit_disk_${name}{${disk}${more}}`);
  assert.equal(one('requests_total', ',request="write"'), 3);
  assert.equal(one('bytes_total', ',request="write"'), 3 * 4096);
  assert.equal(one('errors_total', ',request="read"'), 0);
  assert.equal(
    one('request_seconds_count', ',request="read"'),
    one('requests_total', ',request="read"'),
  );
  assert.equal(one('request_seconds_bucket', ',request="write",le="+Inf"'), 3);
  const sum = one('request_seconds_sum', ',request="write"');
  assert.ok(sum > 0 && sum < 60);
  const bounds = [
    ...page.matchAll(/_request_seconds_bucket\{[^}]*xvda[^}]*write",le="([^"]+)"\} (\d+)/g),
  ];
  assert.ok(
    bounds.length < 12 &&
      bounds.every(([, , n], i) => i === 0 || Number(n) >= Number(bounds[i - 1]?.[2])),
  );
  assert.equal(one('requests_in_flight'), 0);
  assert.equal(one('attached'), 1);
  assert.equal(one('paused'), 0);
  assert.equal(one('chain_depth'), 1);
  const { sectors } = (await web.disk('xvda')).description;
  assert.equal(one('size_bytes'), sectors * 512);
  assert.equal(one('allocated_bytes'), statSync(join(kit.host.dir, 'web.vhd')).blocks * 512);
  assert.match(
    page,
    /^vbdkit_disk_info\{guest="we\\"b",vdev="xvda",domid="1",kind="vbd3",mode="w",path="[^"]+web\.vhd",device="ring"\} 1$/m,
  );
});

test('a disk on a loop device has what the kernel knows', options, async () => {
  const page = await text();
  const disk = '{guest="we\\"b",vdev="xvdb"}';
  assert.equal(valueOf(page, `vbdkit_disk_allocated_bytes${disk}`), statSync(raw).blocks * 512);
  assert.equal(valueOf(page, `vbdkit_disk_size_bytes${disk}`), 1 << 20);
  assert.equal(valueOf(page, `vbdkit_disk_requests_in_flight${disk}`), 0);
  assert.equal(valueOf(page, 'vbdkit_loop_devices{state="bound"}'), 1);
  assert.equal(valueOf(page, 'vbdkit_attaches_total{result="attached"}'), 2);
  assert.equal(valueOf(page, 'vbdkit_attach_seconds_count'), 2);
  assert.doesNotMatch(page, /_errors_total\{[^}]*xvdb/);
});

test('there is a bound to the disks that have metrics of their own', options, async () => {
  const page = await text(1);
  assert.equal(valueOf(page, 'vbdkit_disks_not_shown'), 1);
  assert.equal(valueOf(page, 'vbdkit_disks{state="attached"}'), 2);
  assert.deepEqual([...page.matchAll(/^vbdkit_disk_info/gm)].length, 1);
});

test('a chain is as deep as it has images, however many files they are', options, async () => {
  const path = join(kit.host.dir, 'split.vmdk');
  const extents = ['a', 'b', 'c'].map((name) => join(kit.host.dir, `${name}.flat`));
  for (const extent of extents) writeFileSync(extent, Buffer.alloc(1 << 20));
  const lines = extents.map((extent) => `RW 2048 FLAT "${basename(extent)}" 0`);
  const head = ['# Disk DescriptorFile', 'version=1', 'CID=12345678', 'parentCID=ffffffff'];
  writeFileSync(path, [...head, 'createType="twoGbMaxExtentFlat"', ...lines, ''].join('\n'));
  using files = createFileTable();
  const child = join(kit.host.dir, 'child.qcow2');
  createImage(child, { format: 'qcow2', backing: { path, format: 'vmdk' }, options: {}, files });
  await web.attach(spec('vmdk', path, ',access=ro').replace('xvda', 'xvdc'));
  await web.attach(`vdev=xvdd,script=block-vbd,target=qcow2:${child}`);
  const page = await text();
  const depthOf = (vdev: string): number =>
    valueOf(page, `vbdkit_disk_chain_depth{guest="we\\"b",vdev="${vdev}"}`);
  assert.deepEqual(['xvdb', 'xvdc', 'xvdd'].map(depthOf), [1, 1, 2]);
});

test('what a killed tap had open and its successor opens is no attach', loop, async () => {
  await using own = await startTapKit();
  const guest = await own.host.createGuest({ name: 'web' });
  await guest.attach(spec('raw', own.image('a.img', 'raw')));
  await own.restart(() => own.tap.killAndRestart());
  using counted = createTally(own.vbdd);
  const disk = await guest.disk('xvda');
  await disk.write(0, new Uint8Array(512));
  assert.equal(counted.attached, 0);
});

test('without xenstored the metrics say so, and guests have their names', loop, async () => {
  await using own = await startTapKit();
  using counted = createTally(own.vbdd);
  const guest = await own.host.createGuest({ name: 'web' });
  await guest.attach(spec('raw', own.image('a.img', 'raw')));
  const fixed = { tap: { isThere: true }, tally: counted, version: '1', sysfs: '/sys' };
  const daemon = own.vbdd;
  const look = (): Promise<string> =>
    metricsText({ ...fixed, daemon, names: known, mostDisks: 10 });
  const known = new Map<number, string>();
  assert.equal(valueOf(await look(), 'vbdkit_xenstore_up'), 1);
  own.host.server.goAway();
  const page = await look();
  own.host.server.comeBack();
  assert.equal(valueOf(page, 'vbdkit_xenstore_up'), 0);
  assert.equal(valueOf(page, 'vbdkit_disk_attached{guest="web",vdev="xvda"}'), 1);
});

test('by TCP there are the metrics, and nothing else', async () => {
  const port = await freePort();
  await using _server = await serveMetrics(`127.0.0.1:${port}`, async () => 'vbdkit_disks 0\n');
  const ask = async (path: string): Promise<[number, string]> => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`);
    return [answer.status, await answer.text()];
  };
  assert.deepEqual(await ask('/metrics'), [200, 'vbdkit_disks 0\n']);
  assert.equal((await ask('/v1/disks'))[0], 404);
  const asking = request(`http://127.0.0.1:${port}/metrics`, { headers: { host: 'evil.example' } });
  const [refused] = (await once(asking.end(), 'response')) as [IncomingMessage];
  refused.resume();
  assert.equal(refused.statusCode, 403);
  await assert.rejects(
    serveMetrics(`127.0.0.1:${port}`, async () => ''),
    {
      message: /^cannot listen at 127\.0\.0\.1:\d+ \(EADDRINUSE\) — check metrics_listen/,
    },
  );
});

test('the rules for alerts are right, and fire when they should', judge, () => {
  tool(['check', 'rules', join(monitoring, 'alerts.yml')]);
  tool(['test', 'rules', join(monitoring, 'alerts.test.yml')]);
});

test(
  'rules, dashboard and page name metrics that there are, and the page all of them',
  options,
  async () => {
    const page = await text();
    const there = new Set([...page.matchAll(/^# TYPE (\S+)/gm)].map(([, name = '']) => name));
    const named = (file: string): Set<string> => {
      const all = readFileSync(join(monitoring, file), 'utf8').matchAll(
        /\b(?:vbdkit|process)_[a-z_]+/g,
      );
      return new Set([...all].map(([name]) => name.replace(/_(?:bucket|sum|count)$/, '')));
    };
    for (const file of ['alerts.yml', 'grafana-dashboard.json']) {
      assert.deepEqual([...named(file).difference(there)], [], file);
    }
    const told = named('../monitoring.md');
    assert.deepEqual([...there.symmetricDifference(told)], []);
  },
);

test('what has no sample is left out, and a label bears any text', () => {
  const page = metricsPage([
    { name: 'a', help: 'A.', type: 'gauge', samples: [] },
    { name: 'b', help: 'B.', type: 'gauge', samples: [{ labels: { x: 'a\\"\n' }, value: 1 }] },
  ]);
  assert.equal(page, '# HELP b B.\n# TYPE b gauge\nb{x="a\\\\\\"\\n"} 1\n');
});
