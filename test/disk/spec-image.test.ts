/** Where the bytes of a disk are, as far as its specification settles it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DiskSpec, imageOf, type ImagePlace, viaVbdScript } from '../../src/disk/spec.ts';
import { imageFormats } from '../../src/image/formats.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { printSpec } from '../../src/disk/spec-print.ts';
import { plainDisk } from './plain-disk.ts';

test('the image of a disk is what its format and target, or its target under block-vbd, say', () => {
  const rows: readonly (readonly [string, ImagePlace | undefined])[] = [
    ['/i,,xvdb', { format: 'raw', path: '/i' }],
    ['/i,vmdk,xvdb', { format: 'vmdk', path: '/i' }],
    ['/i,qcow,xvdb', { format: 'qcow1', path: '/i' }],
    ['vg/lv,,xvdb', { format: 'raw', path: '/dev/vg/lv' }],
    ['script=,vdev=xvdb,target=/i:j', { format: 'raw', path: '/i:j' }],
    ['script=block-vbd,vdev=xvdb,target=/i', { format: 'raw', path: '/i' }],
    ['script=block-vbd,vdev=xvdb,target=raw:/i', { format: 'raw', path: '/i' }],
    ['script=block-vbd,vdev=xvdb,target=raw:a:b', { format: 'raw', path: '/dev/a:b' }],
    ['script=/x/block-vbd,vdev=xvdb,target=vhdx:/i,j', { format: 'vhdx', path: '/i,j' }],
    ['script=block-vbd,format=vhd,vdev=xvdb,target=/i', { format: 'vhd', path: '/i' }],
    ['script=block-vbd,format=vhd,vdev=xvdb,target=vhd:/i', { format: 'vhd', path: '/i' }],
    ['script=block-vbd,format=vhd,vdev=xvdb,target=vmdk:/i', { format: 'vmdk', path: '/i' }],
    ['script=block-iscsi,vdev=xvdb,target=vmdk:/i', undefined],
    ['cdrom,vdev=xvdb', undefined],
    ...imageFormats.map(
      (format) =>
        [`script=block-vbd,vdev=xvdb,target=${format}:/i`, { format, path: '/i' }] as const,
    ),
  ];
  for (const [text, place] of rows) assert.deepEqual(imageOf(parseSpec([text])), place, text);
});

test('an image that the specification does not settle is refused', () => {
  const rows: readonly [string, string, RegExp][] = [
    ['script=block-vbd,vdev=xvdb,target=vdi:/i', 'invalid', /^vdi in the target .* is not a form/],
    ['script=block-vbd,vdev=xvdb,target=VMDK:/i', 'invalid', /^VMDK in the target/],
    ['script=block-vbd,vdev=xvdb,target=qcow:/i', 'invalid', /^qcow in the target/],
    ['script=block-vbd,format=qcow2,vdev=xvdb,target=vmdk:/i', 'invalid', /says vmdk, but format/],
    ['script=block-vbd,vdev=xvdb,target=vmdk:', 'invalid', /^the target is empty/],
    ['vdev=xvdb,target=', 'invalid', /^the target is empty/],
    ['/i,qed,xvdb', 'unsupported', /^vbdkit does not serve qed images/],
  ];
  for (const [text, kind, message] of rows) {
    assert.throws(() => imageOf(parseSpec([text])), { kind, message }, text);
  }
});

test('any image reaches vbdkit through stock libxl', () => {
  const rows: readonly [string, Partial<DiskSpec>][] = [
    ['/i,vmdk,xvdb,r', { target: 'vmdk:/i', script: 'block-vbd', access: 'r' }],
    ['lv,,xvdb', { target: '/dev/lv', script: 'block-vbd' }],
    ['script=/x/block-vbd,vdev=xvdb,target=raw:/i', { script: '/x/block-vbd' }],
    ['drbd:r0,xvdb', { target: 'r0', script: 'block-drbd' }],
  ];
  for (const [text, changes] of rows) {
    const spec = viaVbdScript(parseSpec([text]));
    assert.deepEqual(spec, { ...plainDisk, ...changes }, text);
    assert.deepEqual(parseSpec([printSpec(spec)], 'xl'), spec);
  }
});
