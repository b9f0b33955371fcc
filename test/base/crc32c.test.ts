/** CRC-32C against its published check value and against a plain computation. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32c } from '../../src/base/crc32c.ts';

function bitByBit(view: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of view) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

test('the check value of CRC-32C', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
});

test('any length gives what a plain computation gives, in one piece or two', () => {
  for (let length = 0; length < 70; length++) {
    const view = Uint8Array.from({ length }, (_, at) => (at * 151 + length) & 255);
    assert.equal(crc32c(view), bitByBit(view));
    const cut = Math.floor(length / 3);
    assert.equal(crc32c(view.subarray(cut), crc32c(view.subarray(0, cut))), bitByBit(view));
  }
});
