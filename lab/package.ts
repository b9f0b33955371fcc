/** The Debian package at work in dom0, for steps that begin with its installation. */
import assert from 'node:assert/strict';
import type { Lab } from './step.ts';

/** Nothing but the package's own programs: dom0's other copy of vbdkit is out of the way. */
export const alone = 'export PATH=/usr/sbin:/usr/bin NODE_COMPILE_CACHE=/var/cache/vbdkit';

/** What takes Node a second takes it many under emulation, the more so what it has not compiled yet. */
export const slow = { timeoutMs: 600_000 };

export const units = ['vbdd', 'vbd-tap'] as const;

const patience = ['[Service]', 'WatchdogSec=10min', 'TimeoutStartSec=20min', ''].join('\n');

/** What a tap does first takes it many times as long under emulation, too. */
const config = '/etc/xen/vbdkit.conf';
const waitForTap = `ExecStartPre=+/bin/sh -c "grep -q ^tap_seconds ${config} || echo tap_seconds = 35 >> ${config}"\n`;

/** Its question will be agreed to; its units have ten times as long for everything. */
export async function expectPackage({ dom0 }: Lab): Promise<void> {
  for (const unit of units) {
    const lines = unit === 'vbdd' ? patience + waitForTap : patience;
    await dom0.put(`/run/systemd/system/${unit}.service.d/lab.conf`, lines);
  }
  await dom0.run('echo vbdkit vbdkit/take-place boolean true | debconf-set-selections');
}

/** Beneath guests whose disks the tap serves it would not go. */
export async function purge({ dom0 }: Lab): Promise<void> {
  await dom0.run(`${alone}; dpkg --purge vbdkit`, slow);
  assert.equal(await dom0.run('dpkg-divert --list "*/block*"'), '');
}

/** Runs `work` on a host without any qemu: neither one that runs nor one that could be started. */
export async function withoutQemu({ dom0 }: Lab, work: () => Promise<void>): Promise<void> {
  const move = (from: string, to: string): string =>
    `for f in /usr/libexec/xen-qemu* /usr/lib/xen-*/bin/qemu* /usr/bin/qemu-system-*; do
      f=\${f%.away}; [ ! -e $f${from} ] || mv $f${from} $f${to}
    done`;
  await dom0.run(`${move('', '.away')}; kill $(< /run/qemu-dom0.pid)
    while pgrep -f '^[^ ]*qemu-system' > /dev/null; do sleep 0.1; done`);
  try {
    await work();
  } finally {
    await dom0.run(move('.away', ''));
  }
}

/** Until the guest's writes come through again. */
export const untilWritten = (device: string): string =>
  `read -r _ _ _ _ before _ < /sys/block/${device}/stat
  while read -r _ _ _ _ now _ < /sys/block/${device}/stat && [ $now = $before ]; do sleep 0.05; done`;

/** The name of the device that stands for a guest's disk in dom0: `nbd0`. */
export async function deviceOf({ dom0 }: Lab, guest: string, vdev: string): Promise<string> {
  const list = `vbd list --no-headings -o guest,vdev,device`;
  const lines = await dom0.run(`${alone}; ${list}`, slow);
  const [, device] = new RegExp(`^${guest} +${vdev} +/dev/(\\w+)`, 'm').exec(lines) ?? [];
  assert.ok(device, `${vdev} has a device in:\n${lines}`);
  return device;
}
