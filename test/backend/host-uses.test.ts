/** This host as a holder: what it mounts keeps guests out, for as long as it is mounted. */
import assert from 'node:assert/strict';
import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Failure } from '../../src/base/failure.ts';
import { hostUses, mappingHolders } from '../../src/backend/host-uses.ts';
import { openTarget } from '../../src/backend/target.ts';
import { createHoldings, type Holdings } from '../../src/disk/holdings.ts';
import type { Member, Mode } from '../../src/disk/identity.ts';
import { judge } from '../../src/disk/sharing.ts';
import { hostPaths } from '../../src/sys/mounts.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { losetup, run } from '../sys/losetup.ts';

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-host-'));
});
after(() => rmSync(dir, { recursive: true }));

const guest = { domid: 7, vm: '/vm/7' };

/** What a guest that asks for the path is told. */
function ask(holdings: Holdings, path: string, mode: Mode): Failure | undefined {
  using target = openTarget(path, mode);
  const { member } = target;
  const question = { members: [member], vm: guest };
  return judge(question, holdings.rivals(member), (domid) => ({ domid }));
}

const programs = needsProgram('mke2fs', 'mount', 'umount', 'losetup');
const mounting = { skip: needsLoop().skip || programs.skip };

test(
  'a file mounted in this host is refused by any of its names, until it is unmounted',
  mounting,
  () => {
    const image = join(dir, 'a.img');
    const [where, link] = [join(dir, 'mnt'), join(dir, 'link.img')];
    run('mke2fs', '-q', '-t', 'ext4', image, '4M');
    linkSync(image, link);
    mkdirSync(where);
    const holdings = createHoldings();
    using uses = hostUses();
    uses.refresh(holdings);
    assert.equal(ask(holdings, image, 'w'), undefined);

    run('mount', '-o', 'loop,ro', image, where);
    try {
      uses.refresh(holdings);
      assert.equal(ask(holdings, image, 'r'), undefined);
      for (const path of [image, link]) {
        const loop = 'as /dev/loop\\d+';
        const use = `in use by this host, mounted at ${where} for reading, ${loop}`;
        const sentence = ask(holdings, path, 'w')?.message ?? '';
        assert.match(sentence, new RegExp(`^${path} is ${use} — unmount it first`));
      }
    } finally {
      run('umount', where);
    }
    uses.refresh(holdings);
    assert.equal(ask(holdings, link, 'w'), undefined);
  },
);

const partitions = { skip: mounting.skip || needsProgram('addpart').skip };

test(
  'a mounted partition keeps guests from the disk and its file, not from its brother',
  partitions,
  () => {
    const file = join(dir, 'disk.img');
    const where = join(dir, 'part');
    writeFileSync(file, '');
    truncateSync(file, 8 << 20);
    run('mke2fs', '-q', '-t', 'ext4', '-E', 'offset=1048576', file, '4M');
    mkdirSync(where);
    using disk = losetup(file, '--partscan');
    run('addpart', disk.path, '1', '2048', '8192');
    run('addpart', disk.path, '2', '10240', '1');
    const holdings = createHoldings();
    using uses = hostUses();
    run('mount', `${disk.path}p1`, where);
    try {
      uses.refresh(holdings);
      for (const path of [file, disk.path, `${disk.path}p1`]) {
        assert.equal(ask(holdings, path, 'r')?.facts['where'], where, path);
      }
      assert.equal(ask(holdings, `${disk.path}p2`, 'w'), undefined);
    } finally {
      run('umount', where);
    }
  },
);

test('what could not be read is read again, and what was known stands until then', () => {
  const mountinfo = join(dir, 'mountinfo');
  const swap = join(dir, 'swap');
  writeFileSync(swap, '');
  writeFileSync(mountinfo, '1 1 254:0 / /first rw - ext4 /dev/vda rw\n');
  const holdings = createHoldings();
  using uses = hostUses({ ...hostPaths, mountinfo, swaps: join(dir, 'none') });
  renameSync(mountinfo, `${mountinfo}.away`);
  assert.throws(() => uses.refresh(holdings), { code: 'ENOENT' });
  assert.equal(holdings.size, 0);
  renameSync(`${mountinfo}.away`, mountinfo);
  uses.refresh(holdings);
  assert.equal(holdings.size, 1);
  uses.refresh(holdings);
  assert.equal(holdings.size, 1);
});

test('a part of a volume group is refused, its volumes are not', () => {
  const sysfs = join(dir, 'sys');
  const [disk, volume] = [join(sysfs, 'sdb'), join(sysfs, 'dm-3')];
  mkdirSync(join(sysfs, 'dev/block'), { recursive: true });
  mkdirSync(join(disk, 'holders'), { recursive: true });
  mkdirSync(join(volume, 'dm'), { recursive: true });
  writeFileSync(join(volume, 'dev'), '253:3\n');
  writeFileSync(join(volume, 'ro'), '0\n');
  writeFileSync(join(volume, 'dm/name'), 'vg-root\n');
  symlinkSync(volume, join(disk, 'holders/dm-3'));
  symlinkSync(disk, join(sysfs, 'dev/block/8:16'));
  symlinkSync(volume, join(sysfs, 'dev/block/253:3'));
  const on = (...stack: string[]): Member => ({
    identity: stack[0] ?? '',
    stack,
    mode: 'r',
    path: '/dev/sdb',
  });
  const sdb = on('device:8:16');
  const holders = mappingHolders({ major: 8, minor: 16 }, sdb, sysfs);
  const sentence = '/dev/sdb is in use by this host as a part of vg-root for writing';
  const refusal = judge({ members: [sdb], vm: guest }, holders, (domid) => ({ domid }));
  assert.equal(refusal?.message, `${sentence} — deactivate vg-root first`);
  for (const each of [on('device:253:3', 'device:8:16'), on('device:253:4', 'device:8:16')]) {
    const question = { members: [each], vm: guest };
    assert.equal(
      judge(question, holders, (domid) => ({ domid })),
      undefined,
    );
  }
  assert.deepEqual(mappingHolders({ major: 253, minor: 3 }, on('device:253:3'), sysfs), []);
});
