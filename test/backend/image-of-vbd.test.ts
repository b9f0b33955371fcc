/** Which image a disk's nodes name, by the script that they came for. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { imageOfVbd } from '../../src/backend/look.ts';

const rows: [script: string, params: string, path: string, format?: string][] = [
  ['/etc/xen/scripts/block', '/srv/a.img', '/srv/a.img'],
  ['/etc/xen/scripts/block', '/srv/raw:a.img', '/srv/raw:a.img'],
  ['/etc/xen/scripts/block-vbd', 'raw:/srv/a.img', '/srv/a.img'],
  ['block-vbd', 'vg/lv', '/dev/vg/lv'],
  ['/etc/xen/scripts/block-tap', 'aio:/srv/a.img', '/srv/a.img'],
  ['/etc/xen/scripts/block-vbd', 'vmdk:/srv/a.vmdk', '/srv/a.vmdk', 'vmdk'],
  ['/etc/xen/scripts/block-tap', 'vhd:/srv/a.vhd', '/srv/a.vhd', 'vhd'],
  ['/etc/xen/scripts/block', 'vmdk:/srv/a.vmdk', 'vmdk:/srv/a.vmdk'],
];
for (const [script, params, path, format = 'raw'] of rows) {
  test(`${script} with ${params} names ${format} ${path}`, () => {
    assert.deepEqual(imageOfVbd({ script, params }), { path, format });
  });
}
