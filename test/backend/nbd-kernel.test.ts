/** What vbdd asks of the kernel's nbd driver, where that has given a device's number away meanwhile. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { nbdKernel } from '../../src/backend/nbd-kernel.ts';
import { disconnectMessage, NBD_MAJOR } from '../../src/sys/nbd.ts';
import type { NetlinkMessage } from '../../src/sys/netlink.ts';

test('a device that was adopted is disconnected, unless it is another disk’s by now', async () => {
  using stack = new DisposableStack();
  const sysBlock = mkdtempSync(join(tmpdir(), 'vbdkit-nbd-'));
  stack.defer(() => rmSync(sysBlock, { recursive: true }));
  const folder = join(sysBlock, 'nbd5');
  mkdirSync(folder);
  const says = (file: string, text: string): void => writeFileSync(join(folder, file), `${text}\n`);
  says('dev', `${NBD_MAJOR}:160`);
  says('pid', '1');
  says('backend', 'vbdkit:vbd-1-51712');
  const asked: NetlinkMessage[] = [];
  const kernel = stack.use(
    nbdKernel(sysBlock, () => ({
      ask(message) {
        asked.push(message);
        return [];
      },
      [Symbol.dispose]: () => {},
    })),
  );
  const use = { name: 'vbd-1-51712', readOnly: false };
  const device = stack.use(await kernel.adopt({ major: NBD_MAJOR, minor: 160 }, use));
  assert.equal(device.devicePath, '/dev/nbd5');

  await device.sever();
  assert.deepEqual(asked, [disconnectMessage(5)]);

  says('backend', 'vbdkit:vbd-2-51712');
  await device.sever();
  // Nobody's.
  rmSync(join(folder, 'pid'));
  says('backend', '');
  await device.sever();
  assert.equal(asked.length, 1, 'the device of another disk is disconnected');
});
