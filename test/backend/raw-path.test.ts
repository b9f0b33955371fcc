/** Which file a disk's nodes name, by the script that they came for. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rawPathOf } from '../../src/backend/look.ts';

const rows: [script: string, params: string, path: string][] = [
  ['/etc/xen/scripts/block', '/srv/a.img', '/srv/a.img'],
  ['/etc/xen/scripts/block', '/srv/raw:a.img', '/srv/raw:a.img'],
  ['/etc/xen/scripts/block-vbd', 'raw:/srv/a.img', '/srv/a.img'],
  ['block-vbd', 'vg/lv', '/dev/vg/lv'],
  ['/etc/xen/scripts/block-tap', 'aio:/srv/a.img', '/srv/a.img'],
];
for (const [script, params, path] of rows) {
  test(`${script} with ${params} names ${path}`, () => {
    assert.equal(rawPathOf({ script, params }), path);
  });
}

test('a format that blkback cannot read is refused by its name', () => {
  for (const script of ['block-vbd', '/etc/xen/scripts/block-tap']) {
    const nodes = { script, params: 'vhd:/srv/a.vhd' };
    assert.throws(() => rawPathOf(nodes), /a\.vhd is vhd, which blkback cannot read/);
  }
});
