/** Generic netlink: messages judged by a C compiler over Linux' own headers, and the kernel's answers. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isErrno } from '../../src/sys/ffi.ts';
import {
  connectMessage,
  disconnectMessage,
  NBD_FAMILY,
  reconfigureMessage,
} from '../../src/sys/nbd.ts';
import {
  decodeAttributes,
  encodeAttributes,
  encodeMessage,
  familyMessage,
  GENL_ID_CTRL,
  nestedAttribute,
  openNetlinkFamily,
  textAttribute,
  u32Attribute,
  u32Of,
} from '../../src/sys/netlink.ts';
import { needsProgram } from '../peers.ts';

function asCompiled(): string {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-netlink-'));
  try {
    const program = join(dir, 'messages');
    execFileSync('gcc', ['-o', program, join(import.meta.dirname, 'nbd-messages.c')]);
    return execFileSync(program, { encoding: 'utf8' });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test('messages for nbd are those that a C program makes of them', needsProgram('gcc'), () => {
  const identifier = 'vbdkit:vbd-7-51712';
  const rows = {
    connect: [
      31,
      connectMessage({
        socketFd: 17,
        sizeBytes: 3 * 2 ** 40,
        blockSizeBytes: 512,
        serverFlags: 0b1_0010_1101,
        deadConnSeconds: 3600,
        identifier,
      }),
      5,
    ],
    reconfigure: [
      31,
      reconfigureMessage({
        index: 3,
        identifier,
        socketFd: 18,
        sizeBytes: 2 ** 20,
        disconnectOnClose: true,
      }),
      6,
    ],
    disconnect: [31, disconnectMessage(3), 7],
    family: [GENL_ID_CTRL, familyMessage(NBD_FAMILY), 8],
  } as const;
  const ours = Object.entries(rows).map(
    ([name, [family, message, sequence]]) =>
      `${name} ${Buffer.from(encodeMessage(family, message, sequence)).toString('hex')}\n`,
  );
  assert.equal([`family ${NBD_FAMILY}\n`, ...ours].join(''), asCompiled());
});

test('the kernel answers, or says that it has no such family', () => {
  using control = openNetlinkFamily('nlctrl');
  const answered = control.ask(familyMessage('nlctrl'));
  const names = answered.filter(({ type }) => type === 2);
  assert.deepEqual(
    names.map(({ payload }) => Buffer.from(payload).toString()),
    ['nlctrl\0'],
  );
  const missing = (): unknown => openNetlinkFamily('no-such-family');
  assert.throws(missing, (thrown) => isErrno(thrown, 'ENOENT'));
  assert.throws(
    () => control.ask(familyMessage('no-such-family')),
    (thrown) => isErrno(thrown, 'ENOENT'),
  );
});

test('attributes are read up to one that is cut short', () => {
  const nested = nestedAttribute(7, u32Attribute(1, 99), textAttribute(2, 'abc'));
  const [outer] = decodeAttributes(encodeAttributes([nested]));
  assert.equal(outer?.type, 7);
  const inner = decodeAttributes(outer?.payload ?? new Uint8Array());
  assert.equal(u32Of(inner, 1), 99);
  assert.equal(u32Of(inner, 3), undefined);
  assert.deepEqual(decodeAttributes(new Uint8Array([9, 0, 1, 0, 1, 2, 3, 4])), []);
});
