/** `vbd repair` as a program: what it says that it would do, it does, and qemu-img finds nothing afterwards. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { headerPlaces, regionTablePlaces } from '../../src/image/vhdx/layout.ts';
import { Header, Incompatible } from '../../src/image/qcow2/header.ts';
import { SparseHeader } from '../../src/image/vmdk/sparse-header.ts';
import { needsProgram } from '../peers.ts';
import { at, ok, qemuImg, rawDisk, vbd } from './image-desk.ts';

/** Where the first tables of a qcow2 file are. */
function tablesOf(file: Buffer): { readonly l2: number; readonly block: number } {
  const { l1At, refcountTableAt } = Header.get(file);
  const l2 = Number(file.readBigUInt64BE(l1At) & 0x00fffffffffffe00n);
  return { l2, block: Number(file.readBigUInt64BE(refcountTableAt)) };
}

/** Both directories of a VMDK, as bytes of its file, and the first tables that they name. */
function directoriesOf(file: Buffer): { readonly first: number; readonly table: number } {
  const first = Number(SparseHeader.get(file).directoryAt) * 512;
  return { first, table: file.readUInt32LE(first) * 512 };
}

interface Damage {
  readonly name: string;
  readonly format: 'vhd' | 'vmdk' | 'qcow2' | 'vhdx';
  readonly damage: (file: Buffer) => Buffer | void;
  /** What is found. */
  readonly says: RegExp;
  /** Of check, before. */
  readonly code: number;
}

const damages: readonly Damage[] = [
  {
    name: 'a VHD without its footer',
    format: 'vhd',
    damage: (file) => void file.fill(0x55, file.length - 512),
    says: /footer at the end of the file is missing/,
    code: 2,
  },
  {
    name: 'a VMDK whose first directory leads nowhere',
    format: 'vmdk',
    damage: (file) => void file.writeUInt32LE(0x7fffffff, directoriesOf(file).first),
    says: /first copies of 1 grain tables lead nowhere/,
    code: 2,
  },
  {
    name: 'a VMDK whose first table leads nowhere',
    format: 'vmdk',
    damage: (file) =>
      void file.fill(0x7f, directoriesOf(file).table, directoriesOf(file).table + 8),
    says: /first copies of 1 grain tables lead nowhere/,
    code: 2,
  },
  {
    name: 'a VMDK that was not closed',
    format: 'vmdk',
    damage: (file) => SparseHeader.put(file, { unclean: 1 }),
    says: /was not closed in order/,
    code: 0,
  },
  {
    name: 'a VHDX with one header',
    format: 'vhdx',
    damage: (file) => void file.fill(1, headerPlaces[0], (headerPlaces[0] ?? 0) + 100),
    says: /one of the two headers is damaged/,
    code: 2,
  },
  {
    name: 'a VHDX with one region table',
    format: 'vhdx',
    damage: (file) => void file.fill(1, regionTablePlaces[0], (regionTablePlaces[0] ?? 0) + 100),
    says: /one of the two region tables is damaged/,
    code: 2,
  },
  {
    name: 'a qcow2 image that leaks',
    format: 'qcow2',
    damage(file) {
      file.writeUInt16BE(1, tablesOf(file).block + 2 * (file.length / 65_536));
      return Buffer.concat([file, Buffer.alloc(65_536)]);
    },
    says: /1 clusters are used less often/,
    code: 3,
  },
  {
    name: 'a qcow2 image whose refcounts are too low',
    format: 'qcow2',
    damage: (file) => void file.fill(0, tablesOf(file).block, tablesOf(file).block + 12),
    says: /6 clusters are used more often/,
    code: 2,
  },
  {
    name: 'a qcow2 image whose refcount block is not in the file',
    format: 'qcow2',
    damage: (file) => void file.writeBigUInt64BE(2n ** 50n, Header.get(file).refcountTableAt),
    says: /1 refcount blocks are not in the file/,
    code: 2,
  },
  {
    name: 'a qcow2 image that is marked as corrupt',
    format: 'qcow2',
    damage(file) {
      file.writeUInt16BE(0, tablesOf(file).block + 8);
      Header.put(file, { incompatible: Incompatible.corrupt });
    },
    says: /is marked as corrupt/,
    code: 2,
  },
];

for (const { name, format, damage, says, code } of damages) {
  test(`${name} is mended as was said`, needsProgram('qemu-img'), async () => {
    const path = at(`repair.${format}`);
    const raw = rawDisk('repair.raw');
    await ok('convert', '-f', 'raw', '-O', format, raw, path);
    const sound = readFileSync(path);
    const file = damage(sound) ?? sound;
    writeFileSync(path, file);
    assert.equal((await vbd('check', path)).code, code);
    const dry = await vbd('repair', '--dry-run', '--json', path);
    assert.ok(readFileSync(path).equals(file), 'a dry run changes nothing');
    assert.match(dry.stdout, says);
    const { 'would-mend': would } = JSON.parse(dry.stdout) as Record<string, unknown[]>;
    const real = await vbd('repair', '--json', path);
    assert.equal(real.code, 0, real.stdout + real.stderr);
    const { mended } = JSON.parse(real.stdout) as Record<string, unknown[]>;
    assert.deepEqual(mended, would, 'what was said is what was done');
    assert.equal(await ok('repair', path), 'There is nothing to mend.\n');
    const theirs = format === 'vhd' ? 'vpc' : format;
    if (format !== 'vhd') assert.equal(qemuImg('check', '-f', theirs, path).code, 0);
    assert.equal(qemuImg('compare', '-f', 'raw', '-F', theirs, raw, path).code, 0);
  });
}

test('what cannot be mended is said, and stays', needsProgram('qemu-img'), async () => {
  const path = at('lost.qcow2');
  await ok('convert', '-f', 'raw', '-O', 'qcow2', rawDisk('lost.raw'), path);
  const file = readFileSync(path);
  file.writeBigUInt64BE(2n ** 50n, tablesOf(file).l2 + 8 * 48);
  writeFileSync(path, file);
  const { code, stdout } = await vbd('repair', path);
  assert.equal(code, 2);
  assert.match(stdout, /^cannot be mended: .*1 entries mean no cluster/m);
  const wrong = await vbd('repair', '-U', path);
  assert.deepEqual([wrong.code, /-U goes with --dry-run/.test(wrong.stderr)], [1, true]);
  assert.equal((await vbd('repair', '-f', 'raw', path)).code, 63);
});

test('our check counts what qemu-img check counts', needsProgram('qemu-img'), async () => {
  const sound = at('sound.qcow2');
  await ok('convert', '-f', 'raw', '-O', 'qcow2', rawDisk('counts.raw'), sound);
  execFileSync('qemu-img', ['snapshot', '-c', 'one', sound]);
  const path = at('counts.qcow2');
  const random = (below: number): number => Math.floor(Math.random() * below);
  for (let round = 0; round < 12; round++) {
    copyFileSync(sound, path);
    const file = readFileSync(path);
    const { l2, block } = tablesOf(file);
    const clusters = file.length / 65_536;
    for (let hit = 0; hit <= round % 4; hit++) {
      const which = random(3);
      if (which === 0) file.writeUInt16BE(random(4), block + 2 * random(clusters + 4));
      if (which === 1) file[l2 + 8 * 48 + 8 * random(16)] = 0x80 * random(2);
      if (which === 2) file.writeUInt16BE(0, block + 2 * (3 + random(clusters - 3)));
    }
    writeFileSync(path, file);
    const theirs = JSON.parse(qemuImg('check', '--output=json', path).stdout) as Counts;
    const ours = JSON.parse((await vbd('check', '--json', path)).stdout) as Counts;
    const counts = ({ leaks = 0, corruptions = 0 }: Counts): Counts => ({ leaks, corruptions });
    assert.deepEqual(counts(ours), counts(theirs));
    await vbd('repair', '-q', path);
    assert.equal(qemuImg('check', path).code, 0);
  }
});

interface Counts {
  readonly leaks?: number;
  readonly corruptions?: number;
}
