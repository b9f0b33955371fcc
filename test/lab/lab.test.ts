/** The parts of the lab that need no emulated machine. */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  cpSync,
  linkSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { ciSteps } from '../../lab/ci.ts';
import { compiledFolder, makePrograms } from '../../lab/programs.ts';
import { configOf, hostsOf, nameOf, root } from '../../lab/config.ts';
import { file, folder, initramfs, link } from '../../lab/cpio.ts';
import { follow } from '../../lab/follow.ts';
import { configText } from '../../lab/guest.ts';
import { isRunning, processOf } from '../../lab/process.ts';
import { requestsOf } from '../../lab/store-trace.ts';
import { findSteps } from '../../lab/test-run.ts';
import { program } from '../peers.ts';

/** The lab has a list of packages of its own, which the test run does not need. */
const noCpio = program('cpio') === undefined ? 'no cpio — run lab/packages.sh' : false;

test('an initial ram disk is what cpio and gzip take apart', { skip: noCpio }, () => {
  const at = mkdtempSync(join(tmpdir(), 'vbdkit-cpio-'));
  try {
    const entries = [folder('bin'), file('bin/a', 'hello', 0o755), link('b', 'bin/a')];
    writeFileSync(join(at, 'disk.gz'), initramfs(entries));
    const unpack = 'gzip -dc disk.gz | cpio -idm --quiet && cat b && stat -c %a bin/a';
    const ran = spawnSync('sh', ['-c', unpack], { cwd: at, encoding: 'utf8' });
    assert.equal(ran.stdout, 'hello755\n');
  } finally {
    rmSync(at, { recursive: true });
  }
});

test('the logs of every store give the same requests', () => {
  const nodes = '/local/domain/0/backend/vbd/3/51712';
  const xenstored417 = `1700000000.25 IN 0x55d0 20261122 21:00:00 WRITE (${nodes}/state 2 )`;
  const xenstored420 = `1700000000.25 io: IN 0x55d0 (d0) 20261122 21:00:00 WRITE (${nodes}/state 2 )`;
  const oxenstored = `[20261122T21:00:00.25Z]  D0           write     ${nodes}/state 2`;
  for (const line of [xenstored417, xenstored420, oxenstored]) {
    const [request] = requestsOf(`noise\n${line}\n`);
    assert.equal(request?.op, 'write', line);
    assert.equal(request.path, `${nodes}/state`);
    assert.equal(request.rest, '2');
  }
});

test("a guest's config names its disks, and a driver domain says what it is", () => {
  const text = configText('g1', { disks: ['/d/a.img,raw,xvda,rw', '/dev/vdc,raw,xvdb,ro'] });
  assert.match(text, /^disk = \[ '\/d\/a\.img,raw,xvda,rw', '\/dev\/vdc,raw,xvdb,ro' \]$/m);
  assert.match(configText('g2', { driver: true }), /^driver_domain = 1$/m);
});

test('a log is followed by whichever of its names it is written', async () => {
  const at = mkdtempSync(join(tmpdir(), 'vbdkit-follow-'));
  try {
    writeFileSync(join(at, 'one'), 'begun\n');
    linkSync(join(at, 'one'), join(at, 'other'));
    using log = follow(join(at, 'one'));
    const matched = log.match(/ready (\d)/, 10_000);
    appendFileSync(join(at, 'other'), 'ready 4\n');
    assert.equal((await matched)[1], '4');
    assert.equal(log.text(), 'begun\nready 4\n');
  } finally {
    rmSync(at, { recursive: true });
  }
});

test('a process is not taken for a later one with its number', () => {
  const own = processOf(process.pid);
  assert.equal(isRunning(own), true);
  assert.equal(isRunning({ ...own, started: '1' }), false);
});

test('what Node compiled of the programs outside serves a copy of them elsewhere', async () => {
  const at = mkdtempSync(join(tmpdir(), 'vbdkit-compiled-'));
  try {
    const programs = join(at, 'made');
    await makePrograms(programs);
    for (const name of ['bin', 'src', 'package.json', compiledFolder])
      cpSync(join(programs, name), join(at, name), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(at, 'node_modules'));
    const env = {
      ...process.env,
      NODE_COMPILE_CACHE: join(at, compiledFolder),
      NODE_COMPILE_CACHE_PORTABLE: '1',
      NODE_DEBUG_NATIVE: 'COMPILE_CACHE',
    };
    for (const program of ['vbdd', 'vbd-tap']) {
      const ran = spawnSync(join(at, 'bin', program), ['--version'], { env, encoding: 'utf8' });
      const lines = (ran.stdout + ran.stderr)
        .split('\n')
        .filter((line) => line.includes(`${at}/src`));
      assert.ok(lines.some((line) => /reading cache .*chunk.* success/.test(line)));
      assert.deepEqual(
        lines.filter((line) => /writing cache|rejected|mismatch/.test(line)),
        [],
      );
    }
  } finally {
    rmSync(at, { recursive: true });
  }
});

test('CI runs steps that there are', async () => {
  const found = await findSteps([], true);
  assert.deepEqual(found.map(({ name }) => name).sort(), ciSteps.toSorted());
});

test('steps are found by a part of their name, and a slow one only by its own', async () => {
  const all = await findSteps([]);
  assert.equal(new Set(all.map(({ name }) => name)).size, all.length);
  const hvm = async (word: string): Promise<boolean[]> =>
    (await findSteps([word])).filter(({ name }) => name.includes('hvm')).map(({ slow }) => slow);
  assert.deepEqual(await hvm('stock'), [true]);
  assert.deepEqual(await hvm('hvm'), [false]);
  await assert.rejects(findSteps(['no such step']), /no step is called/);
});

test('hosts that share a run have names of their own, the first that of a host alone', () => {
  const config = configOf({ suite: 'trixie', xenstored: 'o', init: 'fast' });
  assert.deepEqual(hostsOf(config, '2').map(nameOf), ['trixie-o-fast', 'trixie-o-fast-2']);
  assert.throws(() => hostsOf(config, 'many'), /--jobs many is unknown — give 1 or 2 or 3 or 4/);
});
