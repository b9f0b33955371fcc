/**
 * What the control API understands in JSON, by method and path as OpenAPI writes them: what each
 * takes, what it answers, who may. The server, the client and the document are made from this table.
 */
import { z } from 'zod';
import { LimitsRequest } from '../../tap/limits.ts';
import {
  AttachRequest,
  DiskEvent,
  DiskView,
  DryRun,
  LeaseView,
  LoadView,
  Listening,
  LoopRequest,
  MapView,
  MediumRequest,
  PauseRequest,
  ResizeRequest,
  type Shape,
  StatisticsView,
  Status,
  TrafficView,
  UserView,
  WhyView,
} from './shapes.ts';

/** Of the API, not of vbdkit: the first number is in its paths, the second grows with what is new. */
export const API_VERSION = '1.1';

/** What is said of an operation. */
export interface OperationShape {
  readonly summary: string;
  /** True of a GET that is not for those who may only look. */
  readonly admins?: boolean;
  /** True of what is an admin's and the page's port takes, too, from who has the admin token. */
  readonly page?: boolean;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  readonly status: 200 | 201 | 204;
  /** Undefined where the answer is empty. */
  readonly answer?: z.ZodType;
  /** True of an answer that has a line of JSON for each thing that happens, and stays open. */
  readonly lines?: boolean;
}

export const operations = {
  'GET /v1/status': { summary: 'vbdd itself', status: 200, answer: Status },
  'GET /v1/disks': {
    summary: 'The disks of all guests, by guest and disk',
    status: 200,
    answer: z.object({ disks: z.array(DiskView) }),
  },
  'POST /v1/disks': {
    summary: 'Attach a disk to a running guest, and wait until it is',
    body: AttachRequest,
    status: 201,
    answer: DiskView,
  },
  'POST /v1/dry-run': {
    summary: 'What attaching a disk would do now, and why; nothing is changed',
    body: AttachRequest,
    status: 200,
    answer: DryRun,
  },
  'GET /v1/disks/{guest}/{vdev}': {
    summary: 'One disk',
    status: 200,
    answer: DiskView,
  },
  'DELETE /v1/disks/{guest}/{vdev}': {
    summary: 'Detach a disk, and wait until it is gone',
    query: z.object({
      force: z
        .enum(['0', '1'])
        .default('0')
        .describe('1: goes on when the guest does not let go of it.'),
    }),
    page: true,
    status: 204,
  },
  'GET /v1/disks/{guest}/{vdev}/why': {
    summary: 'Why a disk is as it is',
    status: 200,
    answer: WhyView,
  },
  'POST /v1/disks/{guest}/{vdev}/resize': {
    summary: 'Make a disk as large as its file, or grow both',
    body: ResizeRequest,
    status: 200,
    answer: z.object({ size: z.int().min(0).describe('In bytes.') }),
  },
  'GET /v1/disks/{guest}/{vdev}/stat': {
    summary: 'What a disk has done',
    status: 200,
    answer: StatisticsView,
  },
  'PUT /v1/disks/{guest}/{vdev}/medium': {
    summary: 'Put an image into a CD-ROM drive, or take out what is there',
    body: MediumRequest,
    page: true,
    status: 204,
  },
  'PUT /v1/disks/{guest}/{vdev}/paused': {
    summary:
      'Pause a disk that vbd-tap serves on its ring, once nothing is under way, or let it go on',
    body: PauseRequest,
    page: true,
    status: 204,
  },
  'PUT /v1/disks/{guest}/{vdev}/limits': {
    summary: 'Limit how fast a disk is, from now on until it is detached',
    body: LimitsRequest,
    page: true,
    status: 204,
  },
  'GET /v1/disks/{guest}/{vdev}/users': {
    summary: 'Everyone who uses any of the files that a disk is made of',
    status: 200,
    answer: z.object({ users: z.array(UserView) }),
  },
  'GET /v1/disks/{guest}/{vdev}/map': {
    summary: 'Where the bytes of a disk are, cell by cell',
    query: z.object({
      cells: z.coerce.number().int().min(1).max(4096).default(1024).describe('At most so many.'),
    }),
    status: 200,
    answer: MapView,
  },
  'GET /v1/load': {
    summary: 'What all disks have done, in few figures: for who asks every second',
    status: 200,
    answer: z.object({
      time_ms: z
        .number()
        .describe('When that was, by a clock of vbdd’s; within half a second it is the same.'),
      disks: z.array(LoadView),
    }),
  },
  'GET /v1/traffic': {
    summary: 'What all disks have done, those of which nothing is counted left out',
    status: 200,
    answer: z.object({ disks: z.array(TrafficView) }),
  },
  'GET /v1/users': {
    summary: 'Everyone who uses a file or a block device, whatever name they have it by',
    // Looking at a path that one names is done with vbdd's own rights.
    admins: true,
    query: z.object({ path: z.string().describe('Absolute.') }),
    status: 200,
    answer: z.object({ users: z.array(UserView) }),
  },
  'GET /v1/events': {
    summary: 'What happens to disks, as it happens, for as long as the answer is read',
    status: 200,
    answer: z.union([Listening, DiskEvent]),
    lines: true,
  },
  'GET /v1/loops': {
    summary: 'Loop devices that were handed out',
    status: 200,
    answer: z.object({ loops: z.array(LeaseView) }),
  },
  'POST /v1/loops': {
    summary: 'Hand out the one loop device of a file',
    body: LoopRequest,
    status: 201,
    answer: LeaseView,
  },
  'DELETE /v1/loops/{number}': { summary: 'Take a loop device back', status: 204 },
} as const satisfies Record<string, OperationShape>;

export type Operation = keyof typeof operations;

type NamesIn<Path> = Path extends `${string}{${infer Name}}${infer Rest}`
  ? Name | NamesIn<Rest>
  : never;

type FieldOf<O extends Operation, Field extends 'query' | 'body', Side extends 'in' | 'out'> =
  (typeof operations)[O] extends Readonly<Record<Field, infer Schema extends z.ZodType>>
    ? Readonly<Record<Field, Side extends 'in' ? z.input<Schema> : z.output<Schema>>>
    : unknown;

type PathOf<O extends Operation, Value> = [NamesIn<O>] extends [never]
  ? unknown
  : { readonly path: Readonly<Record<NamesIn<O>, Value>> };

/** What a caller says. */
export type Ask<O extends Operation> = PathOf<O, string | number> &
  FieldOf<O, 'query', 'in'> &
  FieldOf<O, 'body', 'in'>;

/** The same when it was checked, defaults filled in. */
export type Asked<O extends Operation> = PathOf<O, string> &
  FieldOf<O, 'query', 'out'> &
  FieldOf<O, 'body', 'out'>;

/** What comes back; of an answer in lines, one of them. */
export type Answer<O extends Operation> = (typeof operations)[O] extends {
  readonly answer: infer Schema extends z.ZodType;
}
  ? Shape<Schema>
  : void;
