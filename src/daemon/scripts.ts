/** Which hotplug scripts are vbdkit's: by name, or because their path leads to vbdkit's own helper. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { home } from '../sys/home.ts';

/** What libxl runs in the place of its block script. */
export const helperPath = join(home, 'libexec', 'block-vbd');

/** What libxl starts in the place of qemu. */
export const standInPath = join(home, 'libexec', 'xen-qemu');

/**
 * A test for a disk's `script` node. `names` are paths as libxl runs them, or bare names; a path
 * that leads to the helper counts too, so that `vbd setup` needs no word in the configuration.
 */
export function scriptTest(names: readonly string[]): (script: string | undefined) => boolean {
  const known = new Set(names);
  return (script) =>
    script !== undefined &&
    (known.has(script) || known.has(script.split('/').at(-1) ?? '') || leadsToHelper(script));
}

function leadsToHelper(script: string): boolean {
  const helper = statSync(helperPath, { throwIfNoEntry: false });
  const there = statSync(script, { throwIfNoEntry: false });
  return helper !== undefined && helper.dev === there?.dev && helper.ino === there.ino;
}
