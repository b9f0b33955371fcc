/** vbdd's configuration: TOML in the style of xl.conf, every key with a default, typos refused. */
import { readFileSync } from 'node:fs';
import { parse, TomlError } from 'smol-toml';
import { z } from 'zod';
import { Failure } from '../base/failure.ts';
import { checkSchema } from '../base/schema.ts';

const Config = z.strictObject({
  /** The control socket; in its folder the toolstack's helper finds outcomes. */
  socket: z.string().default('/run/vbdkit/vbdd.sock'),
  /** xenstored's unix socket, or /dev/xen/xenbus; empty: the first of them that is there. */
  store: z.string().default(''),
  /** Hotplug scripts whose place vbdkit takes: a bare name, or the path that libxl would run. */
  scripts: z.array(z.string().min(1)).default(['block-vbd']),
  /** The helper attaches disks without any sharing check while vbdd does not run. */
  fallback: z.boolean().default(false),
  /** The data plane's socket: disks that no kernel serves are its; empty: none are served. */
  tap: z.string().default('/run/vbdkit/tap.sock'),
  /**
   * Who serves a guest from an image of kind vbd that blkback cannot read: `nbd`: blkback, on dom0's
   * nbd device that the data plane serves; `ring`: the data plane itself, in blkback's place.
   */
  images: z.enum(['nbd', 'ring']).default('nbd'),
  /**
   * Folders in which parents and extents of guests' images may be, beside each image's own: where
   * an image that a guest writes is a child of one that many share.
   */
  image_folders: z.array(z.string().startsWith('/')).default([]),
  /** How long vbd-tap may take over an order: libxl gives a backend ten seconds to begin. */
  tap_seconds: z.number().positive().default(8),
  /** Where libxl looks for scripts. */
  script_dir: z.string().default('/etc/xen/scripts'),
  /** Where the kernel shows its devices. */
  sysfs: z.string().default('/sys'),
  /** Loop devices kept ready, so that no attach waits for one to be made. */
  spare_loops: z.int().min(0).max(4096).default(64),
  /** How long a dead guest's toolstack has to clean up before vbdd does. */
  grace_seconds: z.number().positive().default(30),
  /** How often every disk is looked at again, in case an event was lost. */
  sweep_seconds: z.number().positive().default(60),
  /** `auto`: attach through xl where it is installed; `never`: always write the store itself. */
  xl: z.enum(['auto', 'never']).default('auto'),
  log_level: z.enum(['error', 'warning', 'notice', 'info', 'debug']).default('info'),
});

export type Config = z.infer<typeof Config>;

export const DEFAULT_CONFIG_PATH = '/etc/xen/vbdkit.conf';

/**
 * Reads the configuration at `path`; `overrides` (from the command line) win over it.
 * A missing file is an error only when someone named it.
 * @throws Failure invalid | not-found
 */
export function loadConfig(path: string | undefined, overrides: Partial<Config> = {}): Config {
  const text = readText(path);
  let values: Record<string, unknown>;
  try {
    values = parse(text);
  } catch (thrown) {
    if (!(thrown instanceof TomlError)) throw thrown;
    const where = `${path ?? DEFAULT_CONFIG_PATH}:${thrown.line}:${thrown.column}`;
    const what = thrown.message.split('\n')[0] ?? '';
    throw new Failure('invalid', `${where}: ${what}`, {}, thrown);
  }
  return checkSchema(Config, { ...values, ...overrides }, path ?? DEFAULT_CONFIG_PATH);
}

function readText(path: string | undefined): string {
  try {
    return readFileSync(path ?? DEFAULT_CONFIG_PATH, 'utf8');
  } catch (thrown) {
    if (path === undefined && isMissing(thrown)) return '';
    throw new Failure('not-found', `cannot read ${path} — check the path of --config`, {}, thrown);
  }
}

function isMissing(thrown: unknown): boolean {
  return thrown instanceof Error && 'code' in thrown && thrown.code === 'ENOENT';
}
