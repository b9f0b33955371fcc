/** The kernel stand-ins on Debian's own xenstoreds: nothing in them leans on the embedded one. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { attachDisk, detachDisk } from '../../src/backend/toolstack.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { startBlkback } from '../../src/host/blkback.ts';
import { removeDomain, writeDomain } from '../../src/host/domain-life.ts';
import { startGuestKernel } from '../../src/host/guest-kernel.ts';
import { createNbdDevices } from '../../src/host/nbd-devices.ts';
import { createRings } from '../../src/host/rings.ts';
import { createStore } from '../../src/xenstore/client.ts';
import { socketTransport } from '../../src/xenstore/socket-transport.ts';
import { patienceMs } from '../patience.ts';
import { needsLoop } from '../peers.ts';
import { needsXenstored, startXenstored } from '../peers/xenstored.ts';
import { hotplug, testLoop, timesOpen } from './test-host.ts';

const place = {
  domid: 4,
  devid: 51712,
  backendDomid: 0,
  kind: 'vbd',
  scriptDir: '/etc/xen/scripts',
  protocol: 'x86_64-abi',
} as const;

for (const kind of ['xenstored', 'oxenstored'] as const) {
  const skip = needsLoop().skip || needsXenstored(kind).skip;
  test(
    `a guest has its disk attached, uses it, loses it and dies, on ${kind}`,
    { skip },
    async () => {
      const dir = mkdtempSync(join(tmpdir(), 'vbdkit-stand-ins-'));
      using _dir = { [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
      const file = join(dir, 'a.img');
      writeFileSync(file, '');
      truncateSync(file, 2 ** 20);
      using loop = testLoop(file);

      await using xenstored = await startXenstored(kind);
      await using dom0 = await createStore(socketTransport(xenstored.socket));
      const rings = createRings();
      using nbd = createNbdDevices();
      await using blkback = await startBlkback({ store: dom0, rings, sysfsDir: dir, nbd });
      await dom0.write('/local/domain/0/name', 'Domain-0');
      await xenstored.introduce(4);
      await writeDomain(dom0, { domid: 4, name: 'web', uuid: randomUUID() });
      const store = await createStore(xenstored.guest(4));
      const kernel = await startGuestKernel({ store, domid: 4, rings, onStopped: () => {} });
      using _kernel = { [Symbol.dispose]: () => kernel.kill() };

      const attach = async (): Promise<void> => {
        const attaching = attachDisk(dom0, parseSpec([`${file},raw,xvda,rw`]), place);
        await hotplug(dom0, 4, 51712, loop.physicalDevice);
        await attaching;
      };
      await attach();
      const disk = await kernel.blkfront.disk(51712, patienceMs(30_000));
      await disk.write(1, new Uint8Array(512).fill(6));
      assert.equal(readFileSync(file)[512], 6);
      await detachDisk(dom0, place);
      await blkback.settled();
      assert.equal(timesOpen(loop), 1);

      await attach();
      await kernel.blkfront.disk(51712, patienceMs(30_000));
      assert.equal(timesOpen(loop), 2);
      kernel.kill();
      await removeDomain(dom0, 4);
      await blkback.settled();
      assert.equal(timesOpen(loop), 1);
      assert.equal(existsSync(join(dir, 'bus/xen-backend/devices/vbd-4-51712')), false);
      assert.deepEqual(await dom0.directory('/local/domain/0'), ['name']);
      xenstored.destroy(4);
    },
  );
}
