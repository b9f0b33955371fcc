/** What a disk prints as, reads back as the same disk; and libxl's fields of it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { Failure } from '../../src/base/failure.ts';
import type { DiskSpec } from '../../src/disk/spec.ts';
import { imageFormats } from '../../src/image/formats.ts';
import { specFlags, specKeys } from '../../src/disk/spec-lexer.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { libxlFields, printSpec } from '../../src/disk/spec-print.ts';
import { searching } from '../property.ts';
import { plainDisk } from './plain-disk.ts';

/** Of these, specifications are made that are nearly right. */
const pieces = [
  ...specFlags,
  ...specKeys.map((key) => `${key}=`),
  ...'raw vhd vmdk qcow empty r w! xvdb /i phy xen 1 x:cdrom :cdrom ='.split(' '),
  ...'phy: raw: drbd: nfs: vdev=xvdb target=/i format=vhd cdrom'.split(' '),
];

const text = fc.oneof(
  fc.constantFrom('', '/i', 'vg/lv', ' a', 'a ', 'x=y', 'phy:/i', 'cdrom', ':', 'é🖴'),
  fc.string({ unit: 'grapheme' }).map((text) => text.replaceAll(/[\0\n]/g, '')),
);
const word = text.map((text) => text.replaceAll(',', ''));
const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> =>
  fc.option(value, { nil: undefined });

/** Every disk that some specification of vbdkit's dialect describes. */
const anySpec: fc.Arbitrary<DiskSpec> = fc
  .record({
    target: maybe(
      fc.oneof(
        text,
        word.map((word) => `/${word},x,,`),
      ),
    ),
    format: fc.constantFrom(...imageFormats, 'qed' as const, 'empty' as const),
    vdev: word,
    access: fc.constantFrom('r' as const, 'w' as const),
    cdrom: fc.boolean(),
    backend: maybe(word),
    backendType: maybe(fc.constantFrom('phy' as const, 'tap' as const, 'qdisk' as const)),
    script: maybe(word),
    directIoSafe: fc.boolean(),
    discard: maybe(fc.boolean()),
    trusted: maybe(fc.boolean()),
    specification: maybe(fc.constantFrom('xen' as const, 'virtio' as const)),
    grantUsage: maybe(fc.boolean()),
    colo: maybe(fc.boolean()),
    coloHost: maybe(word),
    coloPort: maybe(fc.integer({ min: 1, max: 65_535 })),
    coloExport: maybe(word),
    activeDisk: maybe(word),
    hiddenDisk: maybe(word),
  })
  .map((spec) => {
    if (!spec.cdrom) return { ...spec, target: spec.target ?? '' };
    return { ...spec, access: 'r', format: spec.target ? spec.format : 'empty' };
  });

test('a disk printed and read is the same disk', (t) => {
  fc.assert(
    fc.property(anySpec, (spec) => {
      assert.deepEqual(parseSpec([printSpec(spec)]), spec);
    }),
    searching(t, 2000),
  );
});

test('whatever is read prints as what reads the same, and nothing but a Failure is thrown', (t) => {
  const words = fc.oneof(fc.constantFrom(...pieces), text);
  const part = fc.array(words, { maxLength: 6 }).map((words) => words.join(','));
  fc.assert(
    fc.property(fc.array(part, { maxLength: 3 }), fc.boolean(), (parts, stock) => {
      const dialect = stock ? 'xl' : 'vbdkit';
      let spec: DiskSpec;
      try {
        spec = parseSpec(parts, dialect);
      } catch (thrown) {
        assert(thrown instanceof Failure, String(thrown));
        const { part, column, near } = thrown.facts;
        const at = (parts[Number(part) - 1] ?? '').slice(Number(column) - 1);
        assert(at.startsWith(String(near)), JSON.stringify(thrown.facts));
        return;
      }
      assert.deepEqual(parseSpec([printSpec(spec)], dialect), spec);
    }),
    searching(t, 3000),
  );
});

test('a disk that no specification can describe is not printed', () => {
  for (const changes of [{ vdev: 'a,b' }, { script: 'a\n' }, { target: '/a\nb' }]) {
    assert.throws(() => printSpec({ ...plainDisk, ...changes }), { kind: 'invalid' });
  }
});

test("libxl's fields say what was said, and default where nothing was", () => {
  assert.deepEqual(libxlFields(plainDisk), {
    target: '/i',
    vdev: 'xvdb',
    devid: 51728,
    format: 'raw',
    backendtype: 'unknown',
    backend: null,
    script: null,
    removable: 0,
    readwrite: 1,
    is_cdrom: 0,
    direct_io_safe: false,
    discard_enable: 'default',
    colo_enable: 'default',
    specification: 'unknown',
    transport: 'unknown',
    irq: 0,
    base: 0,
    trusted: 'default',
    grant_usage: 'default',
  });
  const rows: readonly [string, Record<string, unknown>][] = [
    ['cdrom,vdev=hdc', { target: null, format: 'empty', removable: 1, readwrite: 0, is_cdrom: 1 }],
    ['/i,qcow,xvdb', { format: 'qcow' }],
    ['/i,,nvme0', { vdev: 'nvme0', devid: null }],
    ['/i,,0x301', { vdev: '0x301', devid: 769 }],
    ['discard,untrusted,direct-io-safe,/i,,a', { discard_enable: 'true', trusted: 'false' }],
    ['grant_usage=0,specification=virtio,/i,,a', { grant_usage: 'false', specification: 'virtio' }],
    ['colo,colo-port=9,/i,,a', { colo_enable: 'true', colo_port: 9, colo_host: null }],
  ];
  for (const [text, fields] of rows) {
    const all = libxlFields(parseSpec([text]));
    assert.deepEqual({ ...all, ...fields }, all, text);
  }
});
