/** Units as they are shipped, but for the programs' places and what a machine without Xen lacks. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '..', '..');

/** Where a unit is in a checkout. */
export function unitPath(unit: string): string {
  return join(root, 'systemd', `${unit}.service`);
}

/** systemd's journal, which keeps nothing beyond the systemd that it belongs to. */
export const journalUnit = [
  '[Unit]',
  'DefaultDependencies=no',
  '[Service]',
  'Type=notify',
  'ExecStart=/lib/systemd/systemd-journald',
  'TemporaryFileSystem=/var/log',
  '',
].join('\n');

/**
 * The text of a unit whose program runs from this checkout with these arguments; what it says is
 * in `UNIT.log` in `dir`, unless it goes elsewhere.
 */
export function unitHere(
  unit: string,
  dir: string,
  args: readonly string[],
  said = `append:${join(dir, `${unit}.log`)}`,
): string {
  return readFileSync(unitPath(unit), 'utf8')
    .replace(/^ExecStart=.*$/m, `ExecStart=${[join(root, 'bin', unit), ...args].join(' ')}`)
    .replace('[Service]', `[Service]\nStandardError=${said}`)
    .replace(/^WatchdogSec=.*$/m, 'WatchdogSec=20s')
    .replaceAll(/^Condition.*\n/gm, '');
}
