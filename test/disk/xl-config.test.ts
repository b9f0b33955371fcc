/** A guest's whole xl configuration: its name, its disks, and where it is wrong. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import { parseXlConfig } from '../../src/disk/xl-config.ts';
import { searching } from '../property.ts';

const guest = `# The web server.
name    = "web-1"
memory  = 0x200; vcpus=2 ;
kernel  = '/boot/vmlinuz' # not "disk"
extra   = "root=/dev/xvda1 ro disk=['no']"
vif     = [ 'bridge=xenbr0', "" ]
nested  = [ 1, [ 'a', [ ] ], ]
x.y_1   = 5
disk    = [
  'phy:/dev/vg/root,xvda,w',   # old style
  # 'commented,,out',
  "format=qcow2, vdev=xvdb, target=/srv/a b,c.qcow2"
  ,
  ',hdc:cdrom,r' ,
]
on_crash = 'destroy'`;

test('the name and the disks are found among everything else', () => {
  const { name, disks } = parseXlConfig(guest);
  assert.equal(name, 'web-1');
  assert.deepEqual(
    disks.map(({ spec, line, column }) => [spec.target, spec.format, spec.vdev, line, column]),
    [
      ['/dev/vg/root', 'raw', 'xvda', 10, 3],
      ['/srv/a b,c.qcow2', 'qcow2', 'xvdb', 12, 3],
      ['', 'empty', 'hdc', 14, 3],
    ],
  );
});

test('every form of a setting is read', () => {
  const d = ',,xvda';
  /** A file, its name, and the targets of its disks. */
  const rows: readonly [string, string | undefined, string[]][] = [
    ['', undefined, []],
    ['\n # c\n;;\n', undefined, []],
    ['#c', undefined, []],
    ['disk=[]', undefined, []],
    ['disk=[\n#c\n]#c', undefined, []],
    [`disk=["/a${d}"]`, undefined, ['/a']],
    [`\tdisk\t=\t[ '/a${d}' ,"/b${d}", ]\n`, undefined, ['/a', '/b']],
    [`disk=["/a${d}"];name='n'`, 'n', ['/a']],
    [`;name='n';;disk=["/a${d}"]  ;`, 'n', ['/a']],
    [`disk=["/a${d}"]\ndisk=["/b${d}"]`, undefined, ['/b']],
    [`disk=["/a${d}"]\ndisk+=["/b${d}"]`, undefined, ['/a', '/b']],
    [`disk+=["/b${d}"]`, undefined, ['/b']],
    ['name="a"\nname += "b"', 'ab', []],
    ['name="a"\nname="b"', 'b', []],
    ['name=12', '12', []],
    ['name=["a"]', undefined, []],
    ['name="a#b;c"', 'a#b;c', []],
    [`name='a"b'`, 'a"b', []],
    [`name="a\\"\\'\\\\\\tb"`, `a"'\\\tb`, []],
    [`disk=['/a\\'s "x"${d}']`, undefined, [`/a's "x"`]],
    [`disk=["/a\\tb${d}"]`, undefined, ['/a\tb']],
    [`disk=["vdev=xvda,target=/a\\\\b"]`, undefined, ['/a\\b']],
    [`disk=["/日本${d}"]`, undefined, ['/日本']],
  ];
  for (const [source, name, targets] of rows) {
    const config = parseXlConfig(source);
    assert.deepEqual(
      [config.name, config.disks.map(({ spec }) => spec.target)],
      [name, targets],
      source,
    );
  }
});

/** A file, the line, the column and the text that the error points at, and its sentence. */
const errors: readonly [string, number, number, string, RegExp][] = [
  ['\ndisk = "/a,,xvda"', 2, 8, '/a,,xvda', /^disk is one value, not a list — write disk = \[/],
  ['disk=5', 1, 6, '5', /^disk is one value/],
  ['disk=[["/a,,xvda"]]', 1, 7, '[', /^a list stands where a disk should/],
  ['disk=[5]', 1, 8, '', /^the disk has no vdev/],
  ['a=1\ndisk=[ "/a,rwa,xvda" ]', 2, 12, 'rwa', /^there is no format rwa/],
  ['disk=["/a\\\\\\t,rwa,xvda"]', 1, 15, 'rwa', /^there is no format rwa/],
  ['disk=[\n"/a"\n]', 2, 4, '', /^the disk has no vdev/],
  ['disk=["/a,,xvda",,]', 1, 18, ',', /^, stands where a quoted text, a number or a list should/],
  ['disk=[,]', 1, 7, ',', /^, stands where a quoted text/],
  ['disk=["/a,,xvda"\n"/b"]', 2, 1, '"', /^" stands where a comma or \] in the list should/],
  ['disk=["/a,,xvda"', 1, 17, '', /^the end of the file stands where a comma or \]/],
  ['disk=[', 1, 7, '', /^the end of the file stands where a quoted text/],
  ['disk=["/a,,xvda\n"]', 1, 7, '"/a,,xvda', /^a text has no closing " on its line/],
  ["name='a\\'", 1, 6, "'a\\'", /^a text has no closing '/],
  ['name="a\\qb"', 1, 8, '\\q', /^\\q means nothing in a text — write \\\\ for \\$/],
  ['name="a\\101"', 1, 8, '\\1', /^\\1 means nothing in a text/],
  ['name="a\\\nb"', 1, 8, '\\\n', /means nothing in a text/],
  ['name=', 1, 6, '', /^the end of the file stands where a quoted text/],
  ['name=\n"a"', 1, 6, '\n', /^the end of the line stands where a quoted text/],
  ['name', 1, 5, '', /^the end of the file stands where = after name should/],
  ['name\n="a"', 1, 5, '\n', /^the end of the line stands where = after name should/],
  ['name=True', 1, 6, 'True', /^True stands where a quoted text/],
  ['name="a" disk=[]', 1, 10, 'disk', /^disk stands where a line break or ; after the value of n/],
  ['disk=[]]', 1, 8, ']', /^\] stands where a line break/],
  ['Name="a"', 1, 1, 'Name', /^Name stands where the name of a setting should — see xl\.cfg/],
  ['a=1\n  =2', 2, 3, '=', /^= stands where the name of a setting/],
  [
    'name="a"\r\ndisk=[]',
    1,
    9,
    '\r',
    /^a carriage return \(the file has the line ends of Windows\)/,
  ],
  ['a=-3', 1, 3, '-', /^- stands where/],
  ['import os', 1, 8, 'os', /^os stands where = after import should/],
  ['disk=[]\ndisk+="/a"', 2, 1, 'disk', /^disk is a list and a single value — make both lists$/],
  [`a=${'['.repeat(1e5)}`, 1, 103, '[', /^lists are nested more than 100 deep/],
  ['a=1\0', 1, 4, '\0', /^\\x00 stands where/],
];

test('what is wrong is named, with its line and column', () => {
  for (const [source, line, column, near, message] of errors) {
    assert.throws(
      () => parseXlConfig(source),
      (thrown) => {
        assert(thrown instanceof Failure, String(thrown));
        assert.deepEqual(
          { kind: thrown.kind, ...thrown.facts },
          { kind: 'invalid', line, column, near },
          source,
        );
        assert.match(thrown.message, message);
        return true;
      },
      source,
    );
  }
});

test('the words of stock libxl alone are taken where that is asked for', () => {
  const source = 'disk=["/a,vhdx,xvda"]';
  assert.equal(parseXlConfig(source).disks[0]?.spec.format, 'vhdx');
  assert.throws(() => parseXlConfig(source, 'xl'), { message: /stock libxl/ });
});

test('nothing but a Failure is thrown, and it points into the file', (t) => {
  const piece = fc.oneof(
    fc.constantFrom(...guest.split(/(?<=[\n ,[\]'"=;#])/)),
    fc.constantFrom('\\', '"', "'", '[', ']', ',', '\n', '+=', ';', '#'),
    fc.string(),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
      const source = pieces.join('');
      try {
        parseXlConfig(source);
      } catch (thrown) {
        assert(thrown instanceof Failure, String(thrown));
        const { line, column } = thrown.facts;
        const text = source.split('\n')[Number(line) - 1];
        assert(text !== undefined && Number(column) >= 1 && Number(column) <= text.length + 1);
      }
    }),
    searching(t, 2000),
  );
});
