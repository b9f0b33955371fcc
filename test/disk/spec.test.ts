/** Disk specifications: rows for every word of xl-disk-configuration(5). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DiskSpec } from '../../src/disk/spec.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { plainDisk } from './plain-disk.ts';

const cdrom = { cdrom: true, access: 'r' } as const;
const emptyDrive = { ...cdrom, format: 'empty' } as const;

type Row = readonly [parts: string | string[], changes: Partial<DiskSpec>];

function check(rows: readonly Row[], dialect?: 'xl' | 'vbdkit'): void {
  for (const [parts, changes] of rows) {
    const list = typeof parts === 'string' ? [parts] : parts;
    assert.deepEqual(parseSpec(list, dialect), { ...plainDisk, ...changes }, JSON.stringify(parts));
  }
}

test('values without a key are target, format, vdev, access, whichever is still open', () => {
  check([
    ['/i,raw,xvdb,rw', {}],
    ['/i,,xvdb', {}],
    ['/i,,xvdb,', {}],
    ['/i,,xvdb,,', {}],
    ['/i,raw,xvdb,w,', {}],
    ['/i,qcow2,xvdb,r', { format: 'qcow2', access: 'r' }],
    ['format=vhd,/i,xvdb,r', { format: 'vhd', access: 'r' }],
    ['vdev=xvdb,/i,vhd,r', { format: 'vhd', access: 'r' }],
    ['vdev=xvdb,/i,,r', { access: 'r' }],
    ['access=r,/i,,xvdb,w', {}],
    ['/i,,xvdb,w,access=r', { access: 'r' }],
    ['/i,discard,vhd,trusted,xvdb', { format: 'vhd', discard: true, trusted: true }],
    [',raw,xvdb', { target: '' }],
    [',raw,xvdb,target=/i', {}],
    ['vdev=xvdb,,target=/i', {}],
    ['host:9000,,xvdb', { target: 'host:9000' }],
    ['Nfs:/i,,xvdb', { target: 'Nfs:/i' }],
    ['n-f:/i,,xvdb', { target: 'n-f:/i' }],
    ['rbd:pool/img,,xvdb', { target: 'rbd:pool/img' }],
    ['target,,xvdb', { target: 'target' }],
    ['nodiscard,,xvdb', { target: 'nodiscard' }],
    ['/i,,,', { vdev: '' }],
  ]);
});

test('every key sets its field', () => {
  const rows: readonly [string, Partial<DiskSpec>][] = [
    ['format=raw', {}],
    ['format=', {}],
    ['format=qcow', { format: 'qcow1' }],
    ['format=qcow2', { format: 'qcow2' }],
    ['format=vhd', { format: 'vhd' }],
    ['format=qed', { format: 'qed' }],
    ['format=empty', { format: 'empty' }],
    ['access=r', { access: 'r' }],
    ['access=ro', { access: 'r' }],
    ['access=w', {}],
    ['access=rw', {}],
    ['access=', {}],
    ['access=r,access=w,access=ro', { access: 'r' }],
    ['devtype=cdrom', cdrom],
    ['devtype=disk', {}],
    ['devtype=cdrom,devtype=disk', {}],
    ['backend=store', { backend: 'store' }],
    ['backend=', { backend: '' }],
    ['backend=,backend=7', { backend: '7' }],
    ['backendtype=phy', { backendType: 'phy' }],
    ['backendtype=tap', { backendType: 'tap' }],
    ['backendtype=qdisk', { backendType: 'qdisk' }],
    ['backendtype=standalone', { backendType: 'standalone' }],
    ['backendtype=tap,backendtype=tap', { backendType: 'tap' }],
    ['script=block-x', { script: 'block-x' }],
    ['script=/opt/a=b', { script: '/opt/a=b' }],
    ['script= two words ', { script: ' two words ' }],
    ['specification=xen', { specification: 'xen' }],
    ['specification=virtio', { specification: 'virtio' }],
    ['grant_usage=0', { grantUsage: false }],
    ['grant_usage=0,grant_usage=1', { grantUsage: true }],
    ['colo-host=h', { coloHost: 'h' }],
    ['colo-port=8889', { coloPort: 8889 }],
    ['colo-export=e', { coloExport: 'e' }],
    ['active-disk=/a', { activeDisk: '/a' }],
    ['hidden-disk=/h', { hiddenDisk: '/h' }],
  ];
  check(rows.map(([word, changes]): Row => [`${word},vdev=xvdb,target=/i`, changes]));
  check(rows.map(([word, changes]): Row => [[word, 'vdev=xvdb', 'target=/i'], changes]));
  check([
    ['vdev=hda:cdrom,target=/i', { vdev: 'hda:cdrom' }],
    ['vdev= xvdb ,target=/i', { vdev: ' xvdb ' }],
    ['vdev=,vdev=xvdb,target=/i', {}],
  ]);
});

test('every flag sets its field, and the last of a pair counts', () => {
  const rows: readonly [string, Partial<DiskSpec>][] = [
    ['cdrom', cdrom],
    ['cdrom,cdrom', cdrom],
    ['cdrom,devtype=disk', {}],
    ['direct-io-safe', { directIoSafe: true }],
    ['discard', { discard: true }],
    ['no-discard', { discard: false }],
    ['discard,no-discard', { discard: false }],
    ['colo', { colo: true }],
    ['colo,no-colo', { colo: false }],
    ['trusted', { trusted: true }],
    ['trusted,untrusted', { trusted: false }],
  ];
  check(rows.map(([word, changes]): Row => [`${word},vdev=xvdb,target=/i`, changes]));
  check(rows.map(([word, changes]): Row => [['vdev=xvdb', 'target=/i', word], changes]));
  // Only the bare word is a flag.
  check([['cdrom ,,xvdb', { target: 'cdrom ' }]]);
});

test('target= takes the rest, but for one comma at the end', () => {
  check([
    ['vdev=xvdb,target=/a,b=c,cdrom ', { target: '/a,b=c,cdrom ' }],
    ['vdev=xvdb,target= /i', { target: ' /i' }],
    ['vdev=xvdb,target=/i,', {}],
    ['vdev=xvdb,target=/i,,', { target: '/i,' }],
    ['vdev=xvdb,target=', { target: '' }],
    ['vdev=xvdb,target=,', { target: '' }],
    ['vdev=xvdb,target=phy:/i', { target: 'phy:/i' }],
    ['vdev=xvdb,target=target=/i', { target: 'target=/i' }],
    ['vdev=xvdb,target=/ü/日本 🖴', { target: '/ü/日本 🖴' }],
  ]);
});

test('blanks before a word are skipped, those after it belong to it', () => {
  check([
    [' \t/i,\traw, xvdb,\n r', { access: 'r' }],
    ['/i ,raw,xvdb', { target: '/i ' }],
    ['/i,raw,xvdb,w, ', {}],
    ['vdev=xvdb, target=/i', {}],
    ['raw: /i,xvdb', {}],
    ['cdrom, , ,xvdb', { ...emptyDrive, target: '' }],
  ]);
});

test('several parts make one disk, and a word does not go on in the next', () => {
  check([
    [['/i', 'raw', 'xvdb', 'r'], { access: 'r' }],
    [['/i,', 'raw,', 'xvdb,'], {}],
    [['', 'vdev=xvdb', ' ', 'target=/i', ''], {}],
    [['vdev=xvdb', 'target=/i', 'vhd', 'r'], { format: 'vhd', access: 'r' }],
    [['discard', 'vdev=xvdb', 'target=/i'], { discard: true }],
    [['raw:', '/i,xvdb'], {}],
  ]);
});

test('deprecated prefixes name a format or a script, or nothing', () => {
  for (const prefix of ['tapdisk', 'tap', 'tap2', 'aio', 'ioemu', 'file', 'phy', 'raw']) {
    check([[`${prefix}:/i,xvdb,r`, { access: 'r' }]]);
  }
  check([
    ['qcow:/i,xvdb,w', { format: 'qcow1' }],
    ['qcow2:/i,xvdb,w', { format: 'qcow2' }],
    ['vhd:/i,xvdb,w', { format: 'vhd' }],
    ['tap:tapdisk:vhd:/i,xvdb', { format: 'vhd' }],
    ['raw:raw:/i,xvdb', {}],
    ['raw:/i,format=raw,xvdb', {}],
    ['iscsi:iqn.2020-01.x:y,xvdb', { target: 'iqn.2020-01.x:y', script: 'block-iscsi' }],
    ['nbd:h:1,xvdb', { target: 'h:1', script: 'block-nbd' }],
    ['enbd:h,xvdb', { target: 'h', script: 'block-enbd' }],
    ['drbd:r0,xvdb', { target: 'r0', script: 'block-drbd' }],
    ['script=,drbd:r0,xvdb', { target: 'r0', script: 'block-drbd' }],
    ['phy:vg/lv,xvdb', { target: 'vg/lv' }],
    ['file:/i,ioemu:xvdb,w', {}],
    ['/i,phy:xvdb,r', { access: 'r' }],
    ['raw:vdev=xvdb,target=/i', {}],
    ['phy:,,r', { target: '', vdev: '', access: 'r' }],
  ]);
});

test('the deprecated vdev:type says cdrom or disk, after the last colon', () => {
  check([
    ['/i,raw,xvdb:cdrom', cdrom],
    ['/i,raw,xvdb:cdrom,rw', cdrom],
    ['file:/i,ioemu:xvdb:cdrom,r', cdrom],
    ['/i,raw,xvdb:disk,r', { access: 'r' }],
    ['cdrom,/i,raw,xvdb:disk', {}],
    ['/i,raw,xvdb:disk,cdrom', cdrom],
    ['/i,raw,a:b:cdrom', { ...cdrom, vdev: 'a:b' }],
    [',xvdb:cdrom,r', { ...emptyDrive, target: '' }],
    [',xvdb:cdrom,r,target=/i', emptyDrive],
    [',xvdb:disk', { target: '', format: 'empty' }],
    ['raw:,xvdb:cdrom', { ...emptyDrive, target: '' }],
    [',,xvdb:cdrom,r', { ...emptyDrive, target: '' }],
    [',empty,xvdb:cdrom,r', { ...emptyDrive, target: '' }],
  ]);
});

test('a cdrom is read-only, and empty without a target', () => {
  check([
    ['access=w,cdrom,vdev=xvdb,target=/i', cdrom],
    ['cdrom,vdev=xvdb', { ...emptyDrive, target: undefined }],
    ['cdrom,format=vhd,vdev=xvdb', { ...emptyDrive, target: undefined }],
    ['cdrom,vdev=xvdb,target=', { ...emptyDrive, target: '' }],
    ['cdrom,,,xvdb', { ...emptyDrive, target: '' }],
    ['cdrom,format=empty,vdev=xvdb,target=/i', emptyDrive],
  ]);
});

test("vbdkit's own words are understood, unless stock libxl is to", () => {
  const rows: readonly [string, Partial<DiskSpec>, RegExp][] = [
    ['/i,vhdx,xvdb', { format: 'vhdx' }, /stock libxl does not know the format vhdx/],
    ['/i,vmdk,xvdb', { format: 'vmdk' }, /stock libxl does not know the format vmdk/],
    ['format=qcow1,/i,xvdb', { format: 'qcow1' }, /stock libxl does not know the format qcow1/],
    ['format=qcow,format=qcow1,/i,xvdb', { format: 'qcow1' }, /stock libxl .* qcow1/],
    ['script=,/i,,xvdb', { script: '' }, /stock libxl knows no empty script/],
  ];
  for (const [text, changes, message] of rows) {
    check([[text, changes]], 'vbdkit');
    assert.throws(() => parseSpec([text], 'xl'), { kind: 'invalid', message });
  }
});
