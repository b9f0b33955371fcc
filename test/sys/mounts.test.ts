/** What this host uses: rows of the two files in /proc, and real mounts of real loops. */
import assert from 'node:assert/strict';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { formatDevice } from '../../src/sys/device-number.ts';
import {
  hostPaths,
  parseMountinfo,
  parseSwaps,
  readHostUses,
  watchHostUses,
} from '../../src/sys/mounts.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { losetup, numberOf, run } from './losetup.ts';

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-mounts-'));
});
after(() => rmSync(dir, { recursive: true }));

const mountRows: readonly [string, string, string, string, string, boolean][] = [
  ['21 1 8:2 / / rw,noatime shared:1 - ext4 /dev/sda2 rw', '8:2', '/', 'ext4', '/dev/sda2', true],
  [
    '40 21 8:3 /sub /mnt ro,nosuid - xfs /dev/sda3 rw,inode64',
    '8:3',
    '/mnt',
    'xfs',
    '/dev/sda3',
    true,
  ],
  [
    '41 21 253:4 / /mnt rw shared:2 master:1 propagate_from:1 unbindable - ext4 /dev/mapper/vg-x ro,errors=remount-ro',
    '253:4',
    '/mnt',
    'ext4',
    '/dev/mapper/vg-x',
    false,
  ],
  [
    '42 21 7:0 / /a\\040b\\011c\\134d\\012e rw - ext4 /dev/loop0 rw',
    '7:0',
    '/a b\tc\\d\ne',
    'ext4',
    '/dev/loop0',
    true,
  ],
  ['43 21 0:44 / /d - tmpfs  rw,ro_is_no_option', '0:44', '/d', 'tmpfs', '', true],
  [
    '44 21 0:45 / /é - btrfs /dev/disk/by-label/two\\040words ro',
    '0:45',
    '/é',
    'btrfs',
    '/dev/disk/by-label/two words',
    false,
  ],
];

for (const [line, number, where, type, source, writing] of mountRows) {
  test(`mountinfo: ${line}`, () => {
    const [mount, ...others] = parseMountinfo(`${line}\n`);
    assert.deepEqual(others, []);
    assert.equal(formatDevice(mount?.device ?? { major: -1, minor: -1 }), number);
    const { where: at, type: kind, source: from, writing: writes } = mount ?? {};
    assert.deepEqual([at, kind, from, writes], [where, type, source, writing]);
  });
}

test('swaps are read with their escapes, and none when there is only the heading', () => {
  const heading = 'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n';
  const lines = '/dev/dm-1   partition\t99\t0\t-2\n/swap\\040file file\t9\t0\t-3\n';
  assert.deepEqual(parseSwaps(heading + lines), ['/dev/dm-1', '/swap file']);
  assert.deepEqual(parseSwaps(heading), []);
  assert.deepEqual(parseSwaps(''), []);
});

test("this process's own mounts are read as the kernel writes them", () => {
  const mounts = parseMountinfo(readFileSync(hostPaths.mountinfo, 'utf8'));
  const proc = mounts.find(({ where }) => where === '/proc');
  assert.equal(proc?.type, 'proc');
  assert.equal(proc.device.major, 0);
  const { dev } = statSync('/proc');
  assert.equal(proc.device.minor, dev & 0xff);
});

function fakePaths(mountinfo: string, swaps: string): typeof hostPaths {
  const root = mkdtempSync(join(dir, 'proc-'));
  const paths = { mountinfo: join(root, 'mountinfo'), swaps: join(root, 'swaps'), sysfs: root };
  writeFileSync(paths.mountinfo, mountinfo);
  if (swaps !== '') writeFileSync(paths.swaps, swaps);
  return paths;
}

test('a swap file is a file, and one that is gone is nothing', () => {
  const path = join(dir, 'swap');
  writeFileSync(path, '');
  const paths = fakePaths('', `Filename Type\n${path} file 9 0 -2\n${path}-2\\040(deleted) file\n`);
  const { ino } = statSync(path, { bigint: true });
  const [use, ...others] = readHostUses(paths);
  assert.deepEqual(others, []);
  assert.equal(use?.use, 'swap');
  assert.ok('file' in use.what && use.what.file.inode === ino);
  assert.deepEqual([use.where, use.source, use.writing], [path, path, true]);
});

test('a device mounted in many places is used once, by its first mount', () => {
  const lines = ['/srv', '/bind', '/other'].map(
    (where) => `1 1 8:2 / ${where} rw - ext4 /dev/x rw`,
  );
  const uses = readHostUses(fakePaths(lines.join('\n'), ''));
  assert.deepEqual(
    uses.map(({ where }) => where),
    ['/srv'],
  );
});

test('a file mounted with no loop device between is in use itself', () => {
  const path = join(dir, 'image.erofs');
  writeFileSync(path, '');
  const { ino } = statSync(path, { bigint: true });
  const [use] = readHostUses(fakePaths(`1 1 0:39 / /mnt ro - erofs ${path} ro,acl`, ''));
  assert.ok(use !== undefined && 'file' in use.what && use.what.file.inode === ino);
  assert.equal(use.writing, false);
});

test('the source of a file system that any user can mount is not believed', () => {
  const path = join(dir, 'victim');
  writeFileSync(path, '');
  const line = `1 1 0:99 / /home/x rw - fuse.sshfs ${path} rw\n1 1 0:98 / /y rw - tmpfs ${path} rw\n`;
  assert.deepEqual(readHostUses(fakePaths(line, '')), []);
});

test('a kernel without swap is watched for mounts alone', () => {
  using watch = watchHostUses({ ...hostPaths, swaps: join(dir, 'none') });
  assert.equal(watch.changed(), false);
});

/** A small file system in a file, and a folder to mount it on. */
function makeImage(name: string): { image: string; where: string } {
  const image = join(dir, `${name}.img`);
  const where = join(dir, name);
  run('mke2fs', '-q', '-t', 'ext4', image, '4M');
  mkdirSync(where);
  return { image, where };
}

const mounting = {
  skip: needsLoop().skip || needsProgram('mke2fs', 'mount', 'umount', 'losetup').skip,
};

test('a mount is seen once, with its device, its place and whether it writes', mounting, () => {
  const { image, where } = makeImage('with space');
  using watch = watchHostUses();
  watch.changed();
  assert.equal(watch.changed(), false);
  const seen = (): string[] =>
    readHostUses()
      .filter((use) => use.where === where)
      .map(({ source, writing }) => `${source} ${writing ? 'rw' : 'ro'}`);
  run('mount', '-o', 'loop', image, where);
  try {
    assert.equal(watch.changed(), true);
    const { source, what } = readHostUses().find((use) => use.where === where) ?? {};
    assert.ok(source !== undefined && source.startsWith('/dev/loop'));
    assert.deepEqual(what, { device: numberOf(source) });
    assert.deepEqual(seen(), [`${source} rw`]);
    watch.changed();
    run('mount', '-o', 'remount,ro', where);
    assert.equal(watch.changed(), true);
    assert.deepEqual(seen(), [`${source} ro`]);
    run('mount', '-o', 'remount,rw', where);
    assert.equal(watch.changed(), true);
    assert.deepEqual(seen(), [`${source} rw`]);
  } finally {
    run('umount', where);
  }
  assert.equal(watch.changed(), true);
  assert.deepEqual(seen(), []);
});

const noBtrfs =
  !readFileSync('/proc/filesystems', 'utf8').includes('\tbtrfs\n') && 'this kernel has no btrfs';
const btrfs = { skip: mounting.skip || needsProgram('mkfs.btrfs').skip || noBtrfs };

test('every device of a btrfs is in use, whichever was mounted', btrfs, () => {
  const where = join(dir, 'btrfs');
  mkdirSync(where);
  const [one, two] = ['one', 'two'].map((name) => {
    const path = join(dir, name);
    writeFileSync(path, '');
    truncateSync(path, 128 << 20);
    return losetup(path);
  });
  assert.ok(one !== undefined && two !== undefined);
  using _one = one;
  using _two = two;
  run('mkfs.btrfs', '-q', '-m', 'single', '-d', 'single', one.path, two.path);
  run('mount', '-t', 'btrfs', '-o', `device=${one.path},device=${two.path}`, two.path, where);
  try {
    const found = readHostUses().filter((use) => use.where === where);
    const devices = found.map(({ what }) => ('device' in what ? formatDevice(what.device) : '?'));
    assert.deepEqual(devices.sort(), [one, two].map(({ device }) => formatDevice(device)).sort());
  } finally {
    run('umount', where);
  }
});
