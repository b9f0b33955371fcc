/** The embedded host as a process of its own, as vbdd and a toolstack meet it. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { attachDisk } from '../../src/backend/toolstack.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { removeDomain, writeDomain } from '../../src/host/domain-life.ts';
import { textOf } from '../../src/sys/sysfs.ts';
import { until } from '../patience.ts';
import { needsLoop } from '../peers.ts';
import { startHostProcess } from './host-process.ts';
import { hotplug, testLoop, waitFor } from './test-host.ts';

/** Whether the loop device is on that file; its number may be someone else's by now. */
function isBound(loop: string, file: string): boolean {
  return textOf(`/sys/block/${basename(loop)}/loop/backing_file`)?.startsWith(file) === true;
}

test(
  'a host in another process boots the domains it is told of and keeps their devices',
  needsLoop(),
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'vbdkit-process-'));
    using _dir = { [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
    const file = join(dir, 'a.img');
    writeFileSync(file, '');
    truncateSync(file, 2 ** 20);
    await using host = await startHostProcess();
    const { store } = host;
    const backend = '/local/domain/0/backend/vbd/3/51712';
    const place = {
      domid: 3,
      devid: 51712,
      backendDomid: 0,
      kind: 'vbd',
      scriptDir: '/etc/xen/scripts',
    } as const;

    await writeDomain(store, { domid: 3, name: 'web', uuid: randomUUID() });
    await host.introduce(3);
    const attaching = attachDisk(store, parseSpec([`${file},raw,xvda,rw`]), place);
    const loop = testLoop(file);
    await hotplug(store, 3, 51712, loop.physicalDevice);
    await attaching;
    await waitFor(store, `${backend}/state`, '4');
    assert.equal(existsSync(join(host.sysfsDir, 'bus/xen-backend/devices/vbd-3-51712')), true);

    // Whoever made the device may end; the host's kernel has it open.
    loop[Symbol.dispose]();
    assert.equal(isBound(loop.path, file), true);

    await store.write('/local/domain/3/control/shutdown', 'poweroff');
    await waitFor(store, `${backend}/state`, '6');
    await removeDomain(store, 3);
    await host.release(3);
    assert.equal(await store.isIntroduced(3), false);
    await until('the device is let go of', () => !isBound(loop.path, file));
  },
);
