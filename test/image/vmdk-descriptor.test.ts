/** Descriptors as they are found in the wild, and those that are none. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { parseDescriptor } from '../../src/image/vmdk/descriptor.ts';
import { looksLikeDescriptor } from '../../src/image/vmdk/recognise.ts';

const plain = [
  '# Disk DescriptorFile',
  'version=1',
  'CID=0badcafe',
  'parentCID=ffffffff',
  'createType="twoGbMaxExtentSparse"',
  '# Extent description',
  'RW 4192256 SPARSE "disk-s001.vmdk"',
  'RW 100 FLAT "disk-f002.vmdk" 63',
  'ddb.adapterType = "lsilogic"',
];

function parse(lines: readonly string[], end = '\n'): ReturnType<typeof parseDescriptor> {
  return parseDescriptor(Buffer.from(lines.join(end) + end, 'latin1'));
}

function replaced(from: RegExp, to: string): string[] {
  return plain.map((line) => line.replace(from, to));
}

test('a descriptor says its content id, its extents and its values', () => {
  const { cid, parentCid, createType, extents, values } = parse(plain);
  assert.equal(cid, 0x0badcafe);
  assert.equal(parentCid, 0xffffffff);
  assert.equal(createType, 'twoGbMaxExtentSparse');
  assert.deepEqual(
    extents.map(({ type, lengthBytes, name, offsetBytes }) => [
      type,
      lengthBytes,
      name,
      offsetBytes,
    ]),
    [
      ['SPARSE', 4_192_256 * 512, 'disk-s001.vmdk', 0],
      ['FLAT', 100 * 512, 'disk-f002.vmdk', 63 * 512],
    ],
  );
  assert.equal(values.get('ddb.adaptertype'), 'lsilogic');
});

test('line ends, case, spaces and padding do not matter', () => {
  const expected = parse(plain).extents.map(({ name }) => name);
  const rows = [
    parse(plain, '\r\n'),
    parse(plain, ' \n'),
    parse([...plain, '\0\0\0\0createType="other"']),
    parse(
      replaced(/^(CID|parentCID|createType|RW|version)/, '  $1').map((line) =>
        line.replace('=', '\t= '),
      ),
    ),
    parse(plain.map((line) => line.replace(/^[^"]+/, (key) => key.toLowerCase()))),
  ];
  for (const { cid, createType, extents } of rows) {
    assert.equal(cid, 0x0badcafe);
    assert.equal(createType, 'twoGbMaxExtentSparse');
    assert.deepEqual(
      extents.map(({ name }) => name),
      expected,
    );
  }
});

test('the digits of a content id are where they are said to be', () => {
  for (const cid of ['0badcafe', '1', '0x12', '"abcdef12"']) {
    const { text, cidAt, cid: value } = parse(replaced(/0badcafe/, cid));
    const digits = text.slice(cidAt.at, cidAt.at + cidAt.length);
    assert.equal(Number.parseInt(digits, 16), value, cid);
    assert.equal(digits, cid.replace(/0x|"/g, ''));
  }
});

test('file names are read in the encoding that the descriptor names', () => {
  const rows = [
    { encoding: undefined, bytes: [0xc3, 0xa4], name: 'ä' },
    { encoding: undefined, bytes: [0xe4], name: 'ä' },
    { encoding: 'UTF-8', bytes: [0xc3, 0xa4], name: 'ä' },
    { encoding: 'windows-1252', bytes: [0x80], name: '€' },
    { encoding: 'GBK', bytes: [0xb4, 0xc5, 0xc5, 0xcc], name: '磁盘' },
    { encoding: 'Big5', bytes: [0xba, 0xcf, 0xba, 0xd0], name: '磁碟' },
    { encoding: 'Shift_JIS', bytes: [0x8e, 0xa5, 0x8b, 0x43], name: '磁気' },
  ];
  for (const { encoding, bytes, name } of rows) {
    const written = Buffer.from(bytes).toString('latin1');
    const lines = [
      ...(encoding === undefined ? [] : [`encoding="${encoding}"`]),
      ...replaced(/disk-s001/, written),
      `parentFileNameHint="${written}"`,
    ];
    const { extents, parentName } = parse(lines);
    assert.equal(extents[0]?.name, `${name}.vmdk`, encoding);
    assert.equal(parentName, name, encoding);
  }
});

test('what is no descriptor is refused with a sentence', () => {
  const rows = [
    { lines: replaced(/^version.*/, ''), says: /no version/ },
    { lines: replaced(/^version=1/, 'version=9'), says: /version 9/ },
    { lines: replaced(/^CID.*/, ''), says: /no CID/ },
    { lines: replaced(/0badcafe/, 'hello'), says: /hello is no content id/ },
    { lines: replaced(/^createType.*/, ''), says: /no createType/ },
    { lines: replaced(/^RW 100/, 'RW -100'), says: /no extent: RW -100/ },
    { lines: replaced(/^RW 100 FLAT/, 'RW 100 ROUND'), says: /no extent/ },
    { lines: replaced(/^RW 100/, 'RW 9999999999999999'), says: /larger than any disk/ },
    { lines: replaced(/"disk-f002.vmdk" 63/, ''), says: /names no file/ },
    { lines: replaced(/disk-f002/, 'a'.repeat(5000)), says: /too long/ },
  ];
  for (const { lines, says } of rows) {
    assert.throws(
      () => parse(lines),
      (thrown) => thrown instanceof Failure && says.test(thrown.message),
      lines.join(' | ').slice(0, 200),
    );
  }
});

test('a descriptor is known by its first comment, or by its version', () => {
  const rows: readonly [string, boolean][] = [
    ['# Disk DescriptorFile\nversion=1\n', true],
    ['#disk descriptorfile\r\n', true],
    ['# anything\r\n\r\n# more\r\nversion=1\r\n', true],
    ['version = 2\n', true],
    ['# a script\necho version=1\n', false],
    ['conectix', false],
    ['', false],
  ];
  for (const [text, is] of rows) assert.equal(looksLikeDescriptor(Buffer.from(text)), is, text);
});
