/** What devices stand on: real loops and partitions, and trees like sysfs for what this kernel may lack. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { formatDevice, parseDevice } from '../../src/sys/device-number.ts';
import {
  type DeviceStack,
  deviceStack,
  type FileNumber,
  mappingsOn,
} from '../../src/sys/device-stack.ts';
import { O, openFd } from '../../src/sys/fd.ts';
import { fileFacts } from '../../src/sys/file.ts';
import {
  freeLoopNumber,
  LOOP_MAJOR,
  openLoopControl,
  openLoopExclusive,
} from '../../src/sys/loop.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { losetup, numberOf, run } from './losetup.ts';

let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-stack-'));
});
after(() => rmSync(dir, { recursive: true }));

function makeFile(name: string): { path: string; file: FileNumber } {
  const path = join(dir, name);
  writeFileSync(path, '');
  truncateSync(path, 16 << 20);
  using fd = openFd(path, O.RDONLY);
  const { device, inode } = fileFacts(fd.number);
  return { path, file: { device, inode } };
}

const real = { skip: needsLoop().skip || needsProgram('losetup').skip };
const partitions = { skip: real.skip || needsProgram('addpart').skip };

test('a loop device stands on its file, by inode', real, () => {
  const { path, file } = makeFile('a.img');
  using loop = losetup(path);
  assert.deepEqual(deviceStack(loop.device), { devices: [loop.device], files: [file] });
});

test('a loop on a loop stands on both and on the file', real, () => {
  const { path, file } = makeFile('b.img');
  using lower = losetup(path);
  using upper = losetup(lower.path, '--read-only', '--offset', '4096');
  const devices = [upper.device, lower.device];
  assert.deepEqual(deviceStack(upper.device), { devices, files: [file] });
});

test('a partition stands on its disk and not on its brothers', partitions, () => {
  const { path, file } = makeFile('c.img');
  using disk = losetup(path, '--partscan');
  run('addpart', disk.path, '1', '2048', '4096');
  run('addpart', disk.path, '2', '8192', '4096');
  const [one, two] = [numberOf(`${disk.path}p1`), numberOf(`${disk.path}p2`)];
  assert.deepEqual(deviceStack(one), { devices: [one, disk.device], files: [file] });
  assert.deepEqual(deviceStack(two), { devices: [two, disk.device], files: [file] });
  assert.deepEqual(mappingsOn(disk.device), []);
});

test('looking at a loop device leaves it bound and claimed', real, () => {
  const { path, file } = makeFile('d.img');
  using loop = losetup(path);
  using _claim = openFd(loop.path, O.RDONLY | O.EXCL);
  assert.deepEqual(deviceStack(loop.device).files, [file]);
  assert.deepEqual(deviceStack(loop.device).files, [file]);
  assert.throws(() => openFd(loop.path, O.RDONLY | O.EXCL), { code: 'EBUSY' });
});

test('a loop device that is bound to nothing, or not there, stands on nothing', real, () => {
  using control = openLoopControl();
  const minor = freeLoopNumber(control.number);
  // Claimed, so that nobody binds it meanwhile.
  using _claim = openLoopExclusive(minor, true);
  for (const device of [
    { major: LOOP_MAJOR, minor },
    { major: LOOP_MAJOR, minor: 1_000_000 },
  ]) {
    assert.deepEqual(deviceStack(device), { devices: [device], files: [] });
  }
});

interface Device {
  readonly parts?: readonly string[];
  readonly disk?: string;
  readonly dmName?: string;
  readonly readOnly?: boolean;
}

/** Numbers are in the order of the table: sda is 8:0, and so on. */
function makeTree(name: string, table: Readonly<Record<string, Device>>): Tree {
  const root = join(dir, name);
  const numbers = new Map(Object.keys(table).map((each, index) => [each, `8:${index}`]));
  const folder = (device: string): string => {
    const disk = table[device]?.disk;
    const parent = disk === undefined ? join(root, 'devices') : folder(disk);
    return join(parent, device);
  };
  mkdirSync(join(root, 'dev/block'), { recursive: true });
  for (const [device, { parts, disk, dmName, readOnly }] of Object.entries(table)) {
    const at = folder(device);
    mkdirSync(join(at, 'holders'), { recursive: true });
    writeFileSync(join(at, 'dev'), `${numbers.get(device)}\n`);
    writeFileSync(join(at, 'ro'), readOnly ? '1\n' : '0\n');
    symlinkSync(at, join(root, 'dev/block', numbers.get(device) ?? ''));
    if (disk === undefined) mkdirSync(join(at, 'slaves'));
    else writeFileSync(join(at, 'partition'), '1\n');
    if (dmName !== undefined) {
      mkdirSync(join(at, 'dm'));
      writeFileSync(join(at, 'dm/name'), `${dmName}\n`);
    }
    for (const part of parts ?? []) {
      symlinkSync(folder(part), join(at, 'slaves', part));
      symlinkSync(at, join(folder(part), 'holders', device));
    }
  }
  const nameOf = new Map([...numbers].map(([each, number]) => [number, each]));
  const numberOfName = (each: string) =>
    parseDevice(numbers.get(each) ?? '') ?? { major: 0, minor: 0 };
  return {
    below: (each) => namesOf(deviceStack(numberOfName(each), root), nameOf),
    mappings: (each) =>
      mappingsOn(numberOfName(each), root).map((one) => `${one.name}${one.writing ? '' : ' ro'}`),
  };
}

interface Tree {
  below(device: string): string[];
  mappings(device: string): string[];
}

function namesOf({ devices }: DeviceStack, nameOf: ReadonlyMap<string, string>): string[] {
  return devices.map((device) => nameOf.get(formatDevice(device)) ?? '?');
}

test('volumes stand on the partition and the disk; the partition tells its volumes', () => {
  const tree = makeTree('lvm', {
    sda: {},
    sda1: { disk: 'sda' },
    sda2: { disk: 'sda' },
    'dm-0': { parts: ['sda2'], dmName: 'vg-root' },
    'dm-1': { parts: ['sda2'], dmName: 'vg-data', readOnly: true },
  });
  assert.deepEqual(tree.below('dm-0'), ['dm-0', 'sda2', 'sda']);
  assert.deepEqual(tree.below('sda1'), ['sda1', 'sda']);
  assert.deepEqual(tree.mappings('sda2').sort(), ['vg-data ro', 'vg-root']);
  assert.deepEqual(tree.mappings('sda').sort(), ['vg-data ro', 'vg-root']);
  assert.deepEqual(tree.mappings('sda1'), []);
  assert.deepEqual(tree.mappings('dm-0'), []);
});

test('a mirror of partitions, and a volume on it, stand on every disk', () => {
  const tree = makeTree('md', {
    sda: {},
    sda1: { disk: 'sda' },
    sdb: {},
    sdb1: { disk: 'sdb' },
    md0: { parts: ['sda1', 'sdb1'] },
    'dm-0': { parts: ['md0'], dmName: 'vg-x' },
  });
  assert.deepEqual(tree.below('dm-0').sort(), ['dm-0', 'md0', 'sda', 'sda1', 'sdb', 'sdb1']);
  assert.deepEqual(tree.mappings('sdb'), ['md0']);
  assert.deepEqual(tree.mappings('md0'), ['vg-x']);
});

test('the partition of a disk that is one path of a multipath device is in use by that', () => {
  const tree = makeTree('mpath', {
    sda: {},
    sda1: { disk: 'sda' },
    'dm-0': { parts: ['sda'], dmName: 'mpatha' },
    'dm-1': { parts: ['dm-0'], dmName: 'mpatha-part1' },
  });
  assert.deepEqual(tree.mappings('sda1'), ['mpatha']);
  assert.deepEqual(tree.mappings('dm-0'), ['mpatha-part1']);
  assert.deepEqual(tree.below('dm-1'), ['dm-1', 'dm-0', 'sda']);
});

test('a tree that bites its tail still ends', () => {
  const tree = makeTree('tail', { one: {}, two: { parts: ['one'] }, three: { parts: ['two'] } });
  symlinkSync(join(dir, 'tail/devices/three'), join(dir, 'tail/devices/one/slaves/three'));
  assert.deepEqual(tree.below('three'), ['three', 'two', 'one']);
});
