/** Virtual device names and numbers: rows for every form, and a law that ties the two directions. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import { parseVdev, vdevName, vdevNumber } from '../../src/disk/vdev.ts';
import { corpusDir, needsCorpus } from '../peers.ts';
import { searching } from '../property.ts';

const extended = 2 ** 28;

/** Name, number, disk, partition. */
const rows: readonly [string, number, number?, number?][] = [
  ['xvda', 51712, 0, 0],
  ['xvda15', 51727, 0, 15],
  ['xvda16', extended + 16, 0, 16],
  ['xvda255', extended + 255, 0, 255],
  ['xvdc3', 202 * 256 + 35, 2, 3],
  ['xvdp', 202 * 256 + 240, 15, 0],
  ['xvdq', extended + 16 * 256, 16, 0],
  ['xvdz', extended + 25 * 256, 25, 0],
  ['xvdaa', extended + 26 * 256, 26, 0],
  ['xvdba', extended + 52 * 256, 52, 0],
  ['xvdzz', extended + 701 * 256, 701, 0],
  ['xvdaaa', extended + 702 * 256, 702, 0],
  ['xvdtq37', extended + 536 * 256 + 37, 536, 37],
  ['hda', 768, 0, 0],
  ['hda63', 768 + 63, 0, 63],
  ['hdb', 832, 1, 0],
  ['hdc', 5632, 2, 0],
  ['hdd1', 5632 + 65, 3, 1],
  ['sda', 2048, 0, 0],
  ['sdb2', 2048 + 18, 1, 2],
  ['sdp15', 2048 + 255, 15, 15],
  ['d0p0', 51712, 0, 0],
  ['d0', 51712, 0, 0],
  ['d17', extended + 17 * 256, 17, 0],
  ['d15p15', 51967, 15, 15],
  ['d15p16', extended + 15 * 256 + 16, 15, 16],
  ['d0x10p0', extended + 16 * 256, 16, 0],
  ['d0X1Fp0xf', extended + 31 * 256 + 15, 31, 15],
  ['d010p07', 51712 + 8 * 16 + 7, 8, 7],
  ['d1048575p255', 2 ** 29 - 1, 1048575, 255],
  ['0', 0],
  ['51712', 51712],
  ['0xca00', 51712],
  ['0XCA00', 51712],
  ['0145000', 51712],
  ['2147483647', 2147483647],
];

test('a name of any form has its number', () => {
  for (const [name, number, disk, partition] of rows) {
    const wanted = disk === undefined ? { number } : { number, disk, partition };
    assert.deepEqual(parseVdev(name), wanted, name);
  }
});

const refused = [
  '',
  'xvd',
  'hd',
  'sd',
  'd',
  'p0',
  'dp0',
  'd0p',
  'd1p256',
  'd1048576p0',
  'd08p1',
  'd1p09',
  'd0xp1',
  'd-1p0',
  'd1p-1',
  'd+1p0',
  'd 1p0',
  'd1p0 ',
  'd1p0p0',
  'xvda0',
  'xvda01',
  'xvda256',
  'xvda 3',
  'xvda+3',
  'xvda-1',
  'xvdA',
  'XVDA',
  'xvda\n',
  'xvdbhaah',
  'hde',
  'hda64',
  'hdaa',
  'sdq',
  'sda16',
  'vda',
  'nvme0n1',
  '08',
  '0x',
  '0b1',
  '1.5',
  '-1',
  '+5',
  ' 5',
  '5 ',
  '2147483648',
  '0xffffffffffffffffff',
  'ioemu:hda',
  'hda:cdrom',
  '/dev/xvda',
];

test('a name that is none is refused, and the sentence says what to write', () => {
  for (const name of refused) {
    assert.equal(vdevNumber(name), undefined, name);
    assert.throws(
      () => parseVdev(name),
      (thrown) =>
        thrown instanceof Failure &&
        thrown.kind === 'invalid' &&
        thrown.message.includes(name) &&
        thrown.message.includes('write xvda'),
      name,
    );
  }
});

test('stock libxl reads d3p0 but not d3, and takes no name for number 0', () => {
  assert.equal(vdevNumber('', 'xl'), 0);
  assert.equal(vdevNumber('d3', 'xl'), undefined);
  assert.equal(vdevNumber('d3p0', 'xl'), vdevNumber('d3', 'vbdkit'));
});

test('a number has a name', () => {
  const names: readonly [number, string][] = [
    [51712, 'xvda'],
    [51730, 'xvdb2'],
    [768, 'hda'],
    [832, 'hdb'],
    [5633, 'hdc1'],
    [2048, 'sda'],
    [extended + 16 * 256, 'xvdq'],
    [extended + 702 * 256 + 5, 'xvdaaa5'],
    // xvda is 51712, so this number has no name of its own.
    [extended, '268435456'],
    [768 + 128, '896'],
    [6, '6'],
    [0, '0'],
    [2 ** 29, '536870912'],
  ];
  for (const [number, name] of names) assert.equal(vdevName(number), name);
});

test('the name of a number is the name of that number alone', (t) => {
  const number = fc.oneof(
    fc.integer({ min: 0, max: 2 ** 31 - 1 }),
    fc.integer({ min: extended, max: 2 ** 29 - 1 }),
    fc
      .constantFrom(3, 8, 22, 202)
      .chain((major) => fc.integer({ min: 0, max: 255 }).map((minor) => major * 256 + minor)),
  );
  fc.assert(
    fc.property(number, (number) => parseVdev(vdevName(number)).number === number),
    searching(t, 2000),
  );
});

test("every row of the strangers' vdev numbers holds", needsCorpus(), () => {
  const lines = readFileSync(join(corpusDir, 'vdev-numbers.tsv'), 'utf8').split('\n').slice(1);
  for (const line of lines) {
    if (line === '') continue;
    const [name = '', number, disk, partition] = line.split('\t');
    const vdev = vdevNumber(name, 'xl') === undefined ? undefined : parseVdev(name, 'xl');
    const shown = [vdev?.number, vdev?.disk, vdev?.partition].map((n) => String(n ?? '-'));
    assert.deepEqual(shown, [number, disk, partition], name);
  }
});
