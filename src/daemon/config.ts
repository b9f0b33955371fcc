/** vbdd's configuration: TOML in the style of xl.conf, every key with a default, typos refused. */
import { readFileSync } from 'node:fs';
import { parse, TomlError } from 'smol-toml';
import { z } from 'zod';
import { Failure } from '../base/failure.ts';
import { checkSchema } from '../base/schema.ts';

const ids = z.array(z.int().min(0)).default([]);
const whenFull = z.enum(['pause', 'report']);
const ownPort = z
  .string()
  .refine((text) => text === '' || isOwnPort(text), {
    error: 'is no port of this host itself — name one like 127.0.0.1:9547',
  })
  .default('');
const absolutePath = z.string().startsWith('/', { error: 'is no absolute path' });

const Config = z.strictObject({
  socket: z
    .string()
    .default('/run/vbdkit/vbdd.sock')
    .describe('The control socket; in its folder the toolstack’s helper finds outcomes.'),
  store: z
    .string()
    .default('')
    .describe(
      'xenstored’s unix socket, or /dev/xen/xenbus; empty: the first of them that is there.',
    ),
  scripts: z
    .array(z.string().min(1))
    .default(['block-vbd'])
    .describe(
      'Hotplug scripts whose place vbdkit takes: a bare name, or the path that libxl would run.',
    ),
  fallback: z
    .boolean()
    .default(false)
    .describe('The helper attaches disks without any sharing check while vbdd does not run.'),
  tap: z
    .string()
    .default('/run/vbdkit/tap.sock')
    .describe(
      'The data plane’s socket: disks that no kernel serves are its; empty: none are served.',
    ),
  images: z
    .enum(['nbd', 'ring'])
    .default('nbd')
    .describe(
      'Who serves a guest from an image of kind vbd that blkback cannot read: nbd: blkback, on dom0’s nbd device that the data plane serves; ring: the data plane itself, in blkback’s place.',
    ),
  image_folders: z
    .array(z.string().startsWith('/'))
    .default([])
    .describe(
      'Folders in which parents and extents of guests’ images may be, beside each image’s own: where an image that a guest writes is a child of one that many share.',
    ),
  image_keys: z
    .record(absolutePath, absolutePath, {
      error: ({ code }) => (code === 'invalid_key' ? 'is no absolute path' : undefined),
    })
    .default({})
    .describe(
      'Files with the passphrases of encrypted images, all bytes of each, a newline too, by the path of the image or of a folder that it is in; the nearest counts: { "/srv/a.qcow2" = "/etc/xen/keys/a" }. Nobody but root may be able to read them (chmod 600). They are read anew whenever the data plane opens an image. What is named for an image opens its encrypted parents, too: they have no key of their own.',
    ),
  when_full: whenFull
    .default('pause')
    .describe(
      'What becomes of a write on a guest’s ring that there is no room for: pause: it waits until there is, and the disk with it; report: the guest is told of an error.',
    ),
  when_full_of: z
    .record(z.string(), whenFull)
    .default({})
    .describe('The same for single images, by their paths: { "/srv/scratch.qcow2" = "report" }.'),
  low_room_percent: z
    .number()
    .min(0)
    .max(100)
    .default(5)
    .describe(
      'Of a disk that the kernel serves from a file, whose guest is told of errors when there is no room, vbdd warns while its file system has less than this part left, and less than the file may yet take; 0: never.',
    ),
  tap_seconds: z
    .number()
    .positive()
    .default(8)
    .describe(
      'How long vbd-tap may take over an order: libxl gives a backend ten seconds to begin.',
    ),
  limit_iops: z
    .int()
    .min(0)
    .default(0)
    .describe(
      'Requests per second of each disk that vbd-tap serves, until vbd limit says otherwise; 0: as many as there are.',
    ),
  limit_bytes_per_second: z.int().min(0).default(0).describe('Bytes per second, likewise.'),
  limit_burst_seconds: z
    .number()
    .min(0)
    .max(3600)
    .default(1)
    .describe('How long an idle disk saves up for what its limits allow.'),
  metrics_listen: ownPort.describe(
    'Where Prometheus may ask for metrics by TCP, with no question who asks: 127.0.0.1:9547; empty: on the control socket only.',
  ),
  metrics_disks: z
    .int()
    .min(0)
    .default(1000)
    .describe('So many disks have metrics of their own, at most.'),
  page_listen: ownPort.describe(
    'Where browsers of this host have the web page, which shows guests’ disks to whoever asks: 127.0.0.1:9548; empty: there is no page.',
  ),
  page_hosts: z
    .array(z.string().regex(/^[\w.-]+$/, { error: 'is no name of a host — leave the port out' }))
    .default([])
    .describe(
      'Other names than localhost by which browsers may ask for the page: those of a reverse proxy before it.',
    ),
  page_token: z
    .union([z.literal(''), absolutePath])
    .default('')
    .describe(
      'The file with the admin token: who gives it to the page may limit, pause and detach disks and change what is in drives. Nobody but root may be able to read it (chmod 600); it is read anew each time. Empty: the page changes nothing.',
    ),
  script_dir: z.string().default('/etc/xen/scripts').describe('Where libxl looks for scripts.'),
  sysfs: z.string().default('/sys').describe('Where the kernel shows its devices.'),
  admin_uids: ids.describe('Users who may do everything by the control socket, beside root.'),
  admin_gids: ids.describe('Groups whose members may.'),
  read_uids: ids.describe('Users who may look at disks by the control socket, and change nothing.'),
  read_gids: ids.describe('Groups whose members may.'),
  spare_loops: z
    .int()
    .min(0)
    .max(4096)
    .default(64)
    .describe('Loop devices kept ready, so that no attach waits for one to be made.'),
  grace_seconds: z
    .number()
    .positive()
    .default(30)
    .describe('How long a dead guest’s toolstack has to clean up before vbdd does.'),
  sweep_seconds: z
    .number()
    .positive()
    .default(60)
    .describe('How often every disk is looked at again, in case an event was lost.'),
  xl: z
    .enum(['auto', 'never'])
    .default('auto')
    .describe(
      'auto: attach through xl where it is installed; never: always write the store itself.',
    ),
  log_level: z
    .enum(['error', 'warning', 'notice', 'info', 'debug'])
    .default('info')
    .describe('The least important lines that are logged.'),
});

export type Config = z.infer<typeof Config>;

/** With numbers that there are: Node would ask a name server for others. */
function isOwnPort(text: string): boolean {
  const octet = String.raw`\.(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`;
  const [, port] = new RegExp(`^(?:127(?:${octet}){3}|\\[::1\\]):(\\d+)$`).exec(text) ?? [];
  return Number(port) <= 65_535;
}

/** A key of the configuration, for its page of the manual and for the file that is installed. */
export interface ConfigKey {
  readonly name: string;
  readonly description: string;
  readonly default: unknown;
  /** The words of which it must be one; undefined where it takes others. */
  readonly words: readonly string[] | undefined;
}

/** Every key there is, in the order in which they are explained. */
export function configKeys(): ConfigKey[] {
  const defaults: Readonly<Record<string, unknown>> = Config.parse({});
  return Object.entries(Config.shape).map(([name, schema]) => {
    const inner = schema.unwrap();
    const words = inner instanceof z.ZodEnum ? inner.options : undefined;
    return { name, description: schema.description ?? '', default: defaults[name], words };
  });
}

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
