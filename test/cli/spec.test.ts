/** `vbd spec` as it is called: arguments in, output and exit code out. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildApplication, run, type StricliProcess } from '@stricli/core';
import { specCommand } from '../../src/cli/commands/spec.ts';

async function vbdSpec(...args: string[]): Promise<{ out: string; err: string; code: unknown }> {
  let out = '';
  let err = '';
  const process: StricliProcess = {
    stdout: { write: (text: string): void => void (out += text) },
    stderr: { write: (text: string): void => void (err += text) },
  };
  await run(buildApplication(specCommand, { name: 'vbd spec' }), args, { process });
  return { out, err, code: process.exitCode };
}

test('several arguments make one disk, shown in lines', async () => {
  const { out, err, code } = await vbdSpec('/srv/a b.img', 'raw', 'xvda', 'r', 'no-discard', '');
  assert.deepEqual([err, code], ['', 0]);
  assert.equal(
    out,
    [
      'vdev            xvda (51712)',
      'target          /srv/a b.img',
      'format          raw',
      'access          read only',
      'device          disk',
      'discard         no',
      '',
    ].join('\n'),
  );
});

test('a vdev that names no device is shown as such', async () => {
  const { out, code } = await vbdSpec('/a,,nvme0');
  assert.equal(code, 0);
  assert.match(out, /^vdev +nvme0 \(the vdev nvme0 names no virtual device/);
});

test('--json prints one object', async () => {
  const { out, code } = await vbdSpec('--json', 'file:/a.iso,hdc:cdrom,r');
  assert.equal(code, 0);
  const disk = JSON.parse(out) as Record<string, unknown>;
  assert.deepEqual(
    [disk['target'], disk['vdev'], disk['devid'], disk['is_cdrom'], disk['discard_enable']],
    ['/a.iso', 'hdc', 5632, 1, 'default'],
  );
});

test('an error goes to stderr with a caret, and the exit code is not 0', async () => {
  const { out, err, code } = await vbdSpec('vdev=xvda', 'access=x,target=/a', '--json');
  assert.deepEqual([out, code], ['', 2]);
  assert.equal(
    err,
    ['  access=x,target=/a', '         ^', 'there is no access x — use r, ro, w, rw', ''].join(
      '\n',
    ),
  );
});

test('--xl refuses what stock libxl does not know', async () => {
  assert.equal((await vbdSpec('/a,vhdx,xvda', 'script=')).code, 0);
  for (const text of ['/a,vhdx,xvda', '/a,vmdk,xvda', '/a,,xvda,script=']) {
    const { out, err, code } = await vbdSpec('--xl', text);
    assert.deepEqual([out, code], ['', 2]);
    assert.match(err, /stock libxl/);
  }
});

test('--config reads every disk of a guest', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'vbd-spec-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'web.cfg');
  writeFileSync(path, 'name="web"\ndisk=["/a,,xvda",\n  "/b,vhdx,xvdb,r"]\n');

  const json = await vbdSpec('--config', path, '--json');
  const disks = JSON.parse(json.out) as Record<string, unknown>[];
  assert.deepEqual(
    disks.map((disk) => [disk['target'], disk['format'], disk['readwrite']]),
    [
      ['/a', 'raw', 1],
      ['/b', 'vhdx', 0],
    ],
  );

  const listed = await vbdSpec('--config', path);
  assert.match(listed.out, /target +\/a\n[^]*\n\nvdev +xvdb/);

  const stock = await vbdSpec('--config', path, '--xl');
  assert.deepEqual([stock.out, stock.code], ['', 2]);
  assert.equal(
    stock.err,
    `${path}:3:7: stock libxl does not know the format vhdx — use raw, qcow, qcow2, vhd, qed, empty\n    "/b,vhdx,xvdb,r"]\n        ^~~~\n`,
  );

  writeFileSync(path, 'memory=3\n');
  assert.equal((await vbdSpec('--config', path, '--json')).out, '[]\n');
  assert.equal((await vbdSpec('--config', path)).out, 'no disks\n');
});

test('a call that cannot be meant is refused', async () => {
  const rows: readonly [string[], number, RegExp][] = [
    [[], 2, /^no disk is given — /],
    [['--config', '/nowhere/web.cfg'], 1, /^\/nowhere\/web\.cfg cannot be read \(ENOENT\) — /],
    [['--config', '/'], 1, /^\/ cannot be read \(EISDIR\) — /],
    [['--config', '/etc/hostname', '/a,,xvda'], 2, /^both --config and a specification/],
  ];
  for (const [args, wanted, message] of rows) {
    const { out, err, code } = await vbdSpec(...args);
    assert.deepEqual([out, code], ['', wanted], args.join(' '));
    assert.match(err, message);
  }
});

test('--why says what xl makes of it on this host', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-spec-'));
  try {
    const path = join(folder, 'a.img');
    writeFileSync(path, '');
    const raw = await vbdSpec('--why', `${path},raw,xvda`);
    assert.match(raw.out, /^xl chooses +phy: the target is a regular file$/m);
    const vhd = await vbdSpec('--why', `${path},vhd,xvda`);
    assert.match(
      vhd.out,
      /^not +phy: cannot read the format vhd\nxl chooses +qdisk: reads the format vhd$/m,
    );
    const json = await vbdSpec('--why', '--json', `backend=storage,vdev=xvda,target=${path}.none`);
    const { choice } = JSON.parse(json.out) as { choice: { backend: string } };
    assert.equal(choice.backend, 'phy');
    const missing = await vbdSpec('--why', `${path}.none,raw,xvda`);
    assert.deepEqual([missing.out, missing.code], ['', 1]);
    assert.match(missing.err, /a\.img\.none does not exist — create it or correct the target\n$/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
