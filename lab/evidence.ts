/** What is kept of a failed step: the consoles, the store, and dom0's state, in a folder of its own. */
import { cp, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cacheDir } from './config.ts';
import { dom0Of } from './dom0.ts';
import type { Machine } from './machine.ts';

const looks: Readonly<Record<string, string>> = {
  'store.txt': 'xenstore-ls -f -p',
  'guests.txt': 'xl list -l',
  'processes.txt': 'ps -eo pid,ppid,stat,etime,rss,args --forest',
  'loop-devices.txt': 'losetup --list',
  'kernel.txt': 'dmesg',
  'xen.txt': 'xl dmesg',
  'xl-logs.txt': 'tail -v -n 100 /var/log/xen/*.log',
  'journal.txt': 'journalctl --no-pager -n 500',
};

/**
 * Writes the evidence and returns its folder; what cannot be had any more is left out.
 * @param error what the step threw
 */
export async function collect(machine: Machine, name: string, error: string): Promise<string> {
  const stamp = new Date().toISOString().replaceAll(/[-:]|\..*/g, '');
  const folder = join(cacheDir, 'failed', `${stamp}-${name.replaceAll(/\W+/g, '-')}`);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'error.txt'), `${error}\n`);
  await writeFile(join(folder, 'console.log'), machine.console.text());
  for (const shared of ['console', 'jobs'])
    await cp(join(machine.share, shared), join(folder, shared), {
      recursive: true,
      preserveTimestamps: true,
    });
  const dom0 = dom0Of(machine);
  for (const [file, command] of Object.entries(looks)) {
    const ran = await dom0.attempt(command, { timeoutMs: 20_000 }).catch(() => undefined);
    if (ran === undefined) break;
    await writeFile(join(folder, file), ran.stdout + ran.stderr);
  }
  return folder;
}
