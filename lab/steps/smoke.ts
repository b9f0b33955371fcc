/** Is this a Xen host at all, and is vbdkit in it? */
import assert from 'node:assert/strict';
import { step } from '../step.ts';
import { suites } from '../suites.ts';

export const steps = [
  step('dom0 runs on Xen, with the store that was asked for', async ({ dom0, config }) => {
    const info = await dom0.run('xl info; cat /proc/xen/capabilities; ps -eo args');
    assert.match(info, new RegExp(`^xen_version +: ${suites[config.suite].xen}\\.`, 'm'));
    assert.match(info, /^control_d$/m);
    assert.match(info, config.xenstored === 'c' ? /\/xenstored / : /\/oxenstored /);
  }),

  step('vbdkit is in dom0, with its own Node', async ({ dom0 }) => {
    assert.match(await dom0.run('node --version'), /^v24\./);
    assert.match(await dom0.run('vbdd --version'), /^vbdd \d/);
    const koffi = 'require("/opt/vbdkit/node_modules/koffi").version';
    assert.match(await dom0.run(`node --print '${koffi}'`), /^3\./);
  }),

  step('a guest without disks starts, answers and powers off', async ({ guests }) => {
    const guest = await guests.create();
    assert.deepEqual(await guest.disks(), []);
    assert.equal(await guest.sh('uname -s'), 'Linux');
    await guest.end('poweroff');
    await guest.gone();
  }),

  step('dom0 comes back after a reset, with what it had synced', async ({ dom0 }) => {
    await dom0.run('echo kept > /var/note; sync; echo lost > /run/note');
    await dom0.reboot();
    assert.equal(await dom0.run('cat /var/note; rm /var/note'), 'kept');
    assert.equal((await dom0.attempt('cat /run/note')).code, 1);
    await dom0.run('xl list');
  }),
];
