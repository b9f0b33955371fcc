/** Disk specifications that are wrong: what the sentence says, and which character it points at. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { oneLine } from '../../src/base/log.ts';
import { renderSpecFailure } from '../../src/disk/spec-failure.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';

/** Parts, then the part, the column and the text that the error points at, and its sentence. */
const errors: readonly [string | string[], number, number, string, RegExp][] = [
  ['/i,rwa,xvdb', 1, 4, 'rwa', /^there is no format rwa — use raw, /],
  ['/i,RAW,xvdb', 1, 4, 'RAW', /^there is no format RAW/],
  ['/i,raw ,xvdb', 1, 4, 'raw ', /^there is no format /],
  ['format= raw,/i,xvdb', 1, 8, ' raw', /^there is no format /],
  ['/i,xvdb,w', 1, 4, 'xvdb', /the format stands before the vdev: ,,xvdb$/],
  ['/i,,xvdb,q', 1, 10, 'q', /^there is no access q — use r, ro, w, rw$/],
  ['/i,,xvdb,!', 1, 10, '!', /^there is no access !/],
  ['/i,,xvdb,cdrom ', 1, 10, 'cdrom ', /^there is no access /],
  ['file:/i,qcow2,xvdb', 1, 15, 'xvdb', /after a prefix such as file: no format is expected/],
  ['/i,,xvdb,r,r', 1, 12, 'r', /^r is one value too many/],
  ['/i,,xvdb,r,,', 1, 12, '', /^an empty value is one value too many/],
  ['devtype=floppy,/i,,xvdb', 1, 9, 'floppy', /^devtype cannot be floppy — use cdrom or disk$/],
  ['devtype=,/i,,xvdb', 1, 9, '', /^devtype is empty/],
  ['backendtype=blkback,/i,,xvdb', 1, 13, 'blkback', /^backendtype cannot be blkback/],
  ['backendtype=,/i,,xvdb', 1, 13, '', /^backendtype is empty/],
  ['specification=vhost,/i,,xvdb', 1, 15, 'vhost', /^specification cannot be vhost/],
  ['grant_usage=2,/i,,xvdb', 1, 13, '2', /^grant_usage cannot be 2 — use 0 or 1$/],
  ['colo-port=0,/i,,xvdb', 1, 11, '0', /^colo-port cannot be 0/],
  ['colo-port=8k,/i,,xvdb', 1, 11, '8k', /use a number from 1 to 65535$/],
  ['colo-port=65536,/i,,xvdb', 1, 11, '65536', /^colo-port cannot be 65536/],
  ['/i,,xvdb:floppy', 1, 10, 'floppy', /^the type after a vdev cannot be floppy/],
  ['cache=none,/i,,xvdb', 1, 1, 'cache', /^there is no parameter cache — the parameters are /],
  ['/i,,xvdb, f_o=1', 1, 11, 'f_o', /^there is no parameter f_o/],
  ['irq=,/i,,xvdb', 1, 1, 'irq', /^there is no parameter irq/],
  ['discard=on,/i,,xvdb', 1, 1, 'discard', /^discard takes no value — write discard alone$/],
  ['/a=b,,xvdb', 1, 3, '=', /^\/a is no parameter before =/],
  ['Format=raw,/i,,xvdb', 1, 7, '=', /^Format is no parameter before =/],
  ['format =raw,/i,,xvdb', 1, 8, '=', /^format {2}is no parameter before =/],
  ['=,/i,,xvdb', 1, 1, '=', /^no parameter stands before =/],
  ['nfs:/i,xvdb', 1, 1, 'nfs:', /^nfs: is no prefix that a disk may have/],
  ['vmdk:/i,xvdb', 1, 1, 'vmdk:', /a format goes as format=/],
  ['toString:/i,xvdb', 1, 13, 'xvdb', /^there is no format xvdb/],
  ['/i,,xvdb:', 1, 5, 'xvdb:', /^xvdb: is no prefix/],
  ['/i,,xvdb:CDROM', 1, 5, 'xvdb:', /^xvdb: is no prefix/],
  ['constructor:/i,xvdb', 1, 1, 'constructor:', /^constructor: is no prefix/],
  ['format=toString,/i,xvdb', 1, 8, 'toString', /^there is no format toString/],
  ['vdev=xvda,/i,,xvdb', 1, 15, 'xvdb', /^there is no access xvdb/],
  ['/i,,xvdb,vdev=xvdb', 1, 15, 'xvdb', /^vdev is given twice, as xvdb and as xvdb/],
  ['/i,,xvdb,vdev=', 1, 15, '', /^vdev is given twice, as xvdb and as nothing/],
  ['/i,,xvdb,target=/i', 1, 17, '/i', /^target is given twice/],
  ['/i,vhd,xvdb,format=', 1, 20, '', /^format is given twice, as vhd and as nothing/],
  ['raw:vhd:/i,xvdb', 1, 5, 'vhd:', /^format is given twice, as raw and as vhd/],
  ['nbd:drbd:/i,xvdb', 1, 5, 'drbd:', /^script is given twice/],
  ['script=x,script=x,/i,,xvdb', 1, 17, 'x', /^script is given twice/],
  ['backendtype=phy,backendtype=tap', 1, 29, 'tap', /^backendtype is given twice/],
  ['specification=xen,specification=virtio', 1, 33, 'virtio', /^specification is given twice/],
  ['vdev=xvdb,target=/a\nb', 1, 20, '\n', /^a value holds a newline/],
  ['/i\0,,xvdb', 1, 3, '\0', /^a value holds a NUL character/],
  ['', 1, 1, '', /^the disk has no vdev — name the virtual device/],
  ['/i', 1, 3, '', /^the disk has no vdev/],
  ['cdrom', 1, 6, '', /^the disk has no vdev/],
  ['vdev=xvdb', 1, 10, '', /^the disk has no target and is no cdrom/],
  ['format=empty,vdev=xvdb', 1, 23, '', /^the disk has no target/],
  [['/i', 'rwa', 'xvdb'], 2, 1, 'rwa', /^there is no format /],
  [['vdev=xvdb', 'target=/i', ' target=/j'], 3, 9, '/j', /^target is given twice/],
  [['format=raw', 'vdev=xvdb'], 2, 10, '', /^the disk has no target/],
  [[], 1, 1, '', /^the disk has no vdev/],
];

test('what is wrong is named, with its place', () => {
  for (const [given, part, column, near, message] of errors) {
    const parts = typeof given === 'string' ? [given] : given;
    assert.throws(
      () => parseSpec(parts),
      (thrown) => {
        assert(thrown instanceof Failure, String(thrown));
        assert.deepEqual(
          { kind: thrown.kind, ...thrown.facts },
          { kind: 'invalid', part, column, near },
          JSON.stringify(parts),
        );
        assert.match(thrown.message, message);
        assert.match(thrown.message, / — /);
        return true;
      },
      JSON.stringify(parts),
    );
  }
});

test('a caret stands under what is wrong', () => {
  const rows: readonly [string[], string][] = [
    [['/i,rwa,xvdb'], '  /i,rwa,xvdb\n     ^~~\n'],
    [['/日本,rwa,xvdb'], '  /日本,rwa,xvdb\n        ^~~\n'],
    [['vdev=xvdb', 'a\tb,\u001b[31m'], '  a\\x09b,\\x1b[31m\n         ^~~~~~~~\n'],
    [['vdev=xvdb'], '  vdev=xvdb\n           ^\n'],
  ];
  for (const [parts, picture] of rows) {
    let shown = '';
    try {
      parseSpec(parts);
    } catch (thrown) {
      assert(thrown instanceof Failure);
      shown = renderSpecFailure(thrown, parts);
      assert.equal(shown, picture + oneLine(thrown.message));
    }
    assert.notEqual(shown, '');
  }
});
