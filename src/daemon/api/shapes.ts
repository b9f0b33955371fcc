/**
 * What the control API takes and answers, said once: vbdd checks requests by it, its OpenAPI document
 * and every type of a caller are made from it.
 */
import { z } from 'zod';
import { requestKinds } from '../../ring/statistics.ts';

/** The type of what a schema describes, to be read only. */
export type Shape<Schema extends z.ZodType> = ReadonlyDeep<z.infer<Schema>>;

type ReadonlyDeep<T> = T extends readonly (infer Item)[]
  ? readonly ReadonlyDeep<Item>[]
  : T extends object
    ? { readonly [Name in keyof T]: ReadonlyDeep<T[Name]> }
    : T;

const count = z.int().min(0);
const sentences = z.array(z.string());

const FileView = z
  .object({ path: z.string(), mode: z.string().describe('r, w or w!') })
  .meta({ id: 'File', description: 'A file or block device that vbdkit holds.' });

export const DiskView = z
  .object({
    domid: count,
    guest: z.string().nullable().describe('The guest’s name; null when xenstore has none.'),
    vdev: z.string().describe('The disk as its guest has it: xvda.'),
    devid: count.describe('The same as a number.'),
    kind: z.string().describe('The backend’s kind: vbd, vbd3, qdisk.'),
    state: z
      .enum(['attached', 'paused', 'refused', 'waiting', 'closing', 'foreign'])
      .describe(
        'paused: there is no room for what its guest writes, or an admin wants it so; foreign: another program’s disk.',
      ),
    mode: z.string().describe('r, w, or w! for shared writing'),
    path: z.string(),
    device: z
      .string()
      .nullable()
      .describe('What the backend was given; `ring` where vbd-tap is the backend; null: nothing.'),
    sharers: count.describe(
      'How many disks of guests have the same file or device, this one included.',
    ),
    error: z.string().nullable().describe('Why it is refused or paused, as hotplug-error says it.'),
    warning: z
      .string()
      .nullable()
      .describe('What will go wrong unless someone does something; null: nothing that is known.'),
    hold_ms: z
      .number()
      .nullable()
      .describe(
        'From opening the target to a configured device; null when this vbdd did not do it.',
      ),
    files: z.array(FileView).describe('Its own file first, then those of its parents.'),
  })
  .meta({ id: 'Disk', description: 'A disk of a guest.' });
export type DiskView = Shape<typeof DiskView>;

export const DryRun = z
  .object({ because: sentences, steps: sentences })
  .meta({ id: 'DryRun', description: 'What would be done, and why.' });
export type DryRun = Shape<typeof DryRun>;

export const WhyView = z
  .object({
    disk: DiskView,
    facts: z
      .record(z.string(), z.unknown())
      .describe('For people: they differ by how a disk is served.'),
    because: sentences.describe('What follows from the facts.'),
    steps: sentences.describe('What would be done now.'),
  })
  .meta({ id: 'Why', description: 'Why a disk is as it is.' });
export type WhyView = Shape<typeof WhyView>;

/** 0: none. */
const LimitsView = z
  .object({ iops: count, bytes_per_second: count, burst_seconds: z.number() })
  .meta({ id: 'Limits', description: 'How fast a disk may be; 0: as fast as it is.' });

export const KindView = z
  .object({
    kind: z.enum(requestKinds),
    requests: count,
    bytes: count,
    errors: count.nullable().describe('This and what follows is null where blkback counts.'),
    mean_us: z.number().nullable(),
    total_us: z.number().nullable().describe('Of all requests together.'),
    latency: z
      .array(count)
      .nullable()
      .describe('Number n counts those that took less than 2^n µs, and no less than 2^(n-1).'),
  })
  .meta({ id: 'Requests', description: 'What a disk has done of one kind of request.' });
export type KindView = Shape<typeof KindView>;

export const StatisticsView = z
  .object({
    counted_by: z.enum(['vbd-tap', 'blkback']).describe('Who serves the disk, and counts.'),
    since: z
      .string()
      .nullable()
      .describe('When counting began, ISO 8601; null where blkback counts, from the disk’s begin.'),
    limits: LimitsView.nullable().describe('Null where blkback serves the disk, which knows none.'),
    requests: z.array(KindView),
  })
  .meta({ id: 'Statistics', description: 'What a disk has done.' });
export type StatisticsView = Shape<typeof StatisticsView>;

export const TrafficView = StatisticsView.extend({ disk: DiskView }).meta({
  id: 'Traffic',
  description: 'What one of all disks has done.',
});
export type TrafficView = Shape<typeof TrafficView>;

const figure = z.int().min(0).nullable();

export const LoadView = z
  .object({
    domid: count,
    devid: count,
    reads: count,
    writes: count,
    read_bytes: count,
    write_bytes: count,
    read_us: figure.describe('Of all reads together; null where blkback counts.'),
    write_us: figure.describe('Of all writes together, likewise.'),
    under_way: figure.describe('Requests at this moment; null where nobody counts them.'),
  })
  .meta({ id: 'Load', description: 'What a disk has done, in few figures.' });
export type LoadView = Shape<typeof LoadView>;

const cells = z.array(count);

export const MapView = z
  .object({
    size: count.describe('Of the disk, in bytes.'),
    own_bytes: count.describe('What the image itself stores.'),
    below_bytes: count.describe('What the disk has from its parents; the rest reads as zeros.'),
    chain: z
      .array(z.object({ path: z.string(), format: z.string() }))
      .describe('The image itself, its parent, and so on.'),
    cell_bytes: count,
    own: cells.describe('Of each cell of `cell_bytes`, how much the image itself stores.'),
    below: cells.describe('The same of its parents.'),
  })
  .meta({ id: 'Map', description: 'Where the bytes of a disk are.' });
export type MapView = Shape<typeof MapView>;

export const UserView = z
  .object({
    type: z.enum(['guest', 'host', 'loop lease']),
    user: z.string().describe('In words: guest web (domid 1) as xvda.'),
    domid: count.nullable().describe('Of a guest; null for others.'),
    vdev: z.string().nullable(),
    mode: z.string().describe('r, w or w!'),
    path: z.string().describe('What it uses, by the name under which it does.'),
  })
  .meta({ id: 'User', description: 'Who has bytes in common with a file or a block device.' });
export type UserView = Shape<typeof UserView>;

export const LeaseView = z
  .object({
    device: z.string(),
    number: count,
    path: z.string(),
    read_only: z.boolean(),
    direct_io: z.boolean(),
    disk_sequence: count,
    pid: count.describe('vbdd’s own process and descriptor of the device, for pidfd_getfd(2).'),
    fd: count,
    lessee: count.describe('Who asked for it.'),
  })
  .meta({ id: 'Lease', description: 'A loop device that was handed out.' });
export type LeaseView = Shape<typeof LeaseView>;

export const DiskEvent = z
  .object({
    time: z.string().describe('ISO 8601.'),
    event: z
      .enum([...DiskView.shape.state.options, 'changed', 'gone'])
      .describe('The disk’s new state, `changed` where the state is the same, `gone` at its end.'),
    disk: DiskView,
  })
  .meta({ id: 'Event', description: 'What has happened to a disk.' });
export type DiskEvent = Shape<typeof DiskEvent>;

export const Listening = z
  .object({ event: z.literal('listening') })
  .meta({ id: 'Listening', description: 'The first line: from here on nothing is missed.' });

export const Status = z
  .object({
    version: z.string().describe('Of vbdkit.'),
    pid: count,
    rights: z.enum(['admin', 'read']).describe('What who asks may do.'),
    disks: count,
    loop_devices: count.describe('With a file.'),
    spare_loop_devices: count,
    block_devices: count.describe('That are held as they are.'),
    rss_bytes: count,
    store: z
      .object({ requests: count, round_trips: count })
      .describe('What xenstored was asked since vbdd began.'),
  })
  .meta({ id: 'Status', description: 'vbdd itself.' });

export const AttachRequest = z
  .strictObject({
    guest: z.string().describe('Name or domid.'),
    spec: z
      .array(z.string())
      .min(1)
      .describe('The parts of a disk specification, as xl block-attach takes them.'),
    shared: z
      .boolean()
      .default(false)
      .describe('Writes beside other writers, as cluster file systems do.'),
  })
  .meta({ id: 'AttachRequest' });

export const MediumRequest = z
  .strictObject({
    target: z
      .string()
      .min(1)
      .optional()
      .describe('FORMAT:/PATH, or a raw file’s path; without it, the drive is empty.'),
  })
  .meta({ id: 'MediumRequest' });

export const PauseRequest = z.strictObject({ paused: z.boolean() }).meta({ id: 'PauseRequest' });

export const ResizeRequest = z
  .strictObject({
    size: z
      .int()
      .positive()
      .optional()
      .describe('The file is grown to this many bytes first; without it the disk follows it.'),
  })
  .meta({ id: 'ResizeRequest' });

export const LoopRequest = z
  .strictObject({
    path: z.string().optional().describe('Either this …'),
    fd: z.int().min(0).optional().describe('… or the number of a descriptor of the asker.'),
    read_only: z.boolean().default(false),
    offset: z.int().min(0).default(0).describe('In bytes.'),
    direct_io: z.boolean().default(false),
    hold: z
      .enum(['lease', 'connection'])
      .default('lease')
      .describe('connection: given back when the answer is no longer read; lease: when deleted.'),
  })
  .refine((request) => (request.path === undefined) !== (request.fd === undefined), {
    error: 'give either path or fd',
  })
  .meta({ id: 'LoopRequest' });
