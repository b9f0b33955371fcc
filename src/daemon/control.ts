/** The control API: JSON over HTTP on a unix socket, version 1. Errors are failures, as JSON. */
import { type Context, Hono, type Next } from 'hono';
import { stream } from 'hono/streaming';
import { z } from 'zod';
import { Failure, sentenceOf } from '../base/failure.ts';
import type { Daemon } from './daemon.ts';
import { guestNames } from './guests.ts';
import type { Leases } from './leases.ts';
import { checkSchema } from '../base/schema.ts';
import { LimitsRequest, limitsOf } from '../tap/control.ts';
import type { Peer } from '../tap/control-server.ts';
import type { Events } from './events.ts';
import { changeMedium } from './media.ts';
import { limit, statistics, traffic } from './traffic.ts';
import { usersOf } from './users.ts';
import { attach, detach, dryRun, findDisk, resize, type VerbOptions } from './verbs.ts';
import { viewOf, whyOf } from './views.ts';

const AttachRequest = z.strictObject({
  guest: z.string(),
  /** The parts of a disk specification, as xl block-attach takes them. */
  spec: z.array(z.string()).min(1),
  /** Writes beside other writers, as cluster file systems do. */
  shared: z.boolean().default(false),
  dry_run: z.boolean().default(false),
});

/** Without a target, the drive is empty. */
const MediumRequest = z.strictObject({ target: z.string().min(1).optional() });

const ResizeRequest = z.strictObject({
  /** The file is grown to this size first; without it the device follows the file. */
  size: z.int().positive().optional(),
});

const LoopRequest = z
  .strictObject({
    path: z.string().optional(),
    fd: z.int().min(0).optional(),
    read_only: z.boolean().default(false),
    offset: z.int().min(0).default(0),
    direct_io: z.boolean().default(false),
    /** `connection`: given back when this request's connection ends; `lease`: until deleted. */
    hold: z.enum(['lease', 'connection']).default('lease'),
  })
  .refine((request) => (request.path === undefined) !== (request.fd === undefined), {
    error: 'give either path or fd',
  });

export interface ControlOptions {
  readonly daemon: Daemon;
  readonly leases: Leases;
  readonly events: Events;
  readonly verbs: VerbOptions;
  readonly version: string;
  /** Who is at the other end of a request's connection, as the kernel told it. */
  readonly peerOf: (context: Context) => Pick<Peer, 'pid' | 'uid' | 'rights'>;
}

/** The API as a fetch handler; the server gives it requests from checked peers only. */
export function controlApi(options: ControlOptions): Hono {
  const { daemon, verbs } = options;
  const { world, disks } = daemon;
  const app = new Hono();
  app.use((context, next) => whenAllowed(context, options.peerOf(context), next));
  const nameOf = async (domid: number): Promise<string | undefined> =>
    (await guestNames(world.store, [domid])).get(domid);

  app.get('/v1/status', (context) => context.json(statusOf(options)));
  app.get('/v1/disks', async (context) => {
    const records = [...disks.records.values()];
    const names = await guestNames(
      world.store,
      records.map((record) => record.key.domid),
    );
    const views = records.map((record) => viewOf(world, record, names.get(record.key.domid)));
    views.sort((a, b) => a.domid - b.domid || a.devid - b.devid);
    return context.json({ disks: views });
  });
  app.post('/v1/disks', async (context) => {
    const { guest, spec: parts, shared, dry_run } = await parsed(context, AttachRequest);
    const request = { guest, parts, shared };
    if (dry_run) return context.json(await dryRun(daemon, request));
    const record = await attach(daemon, verbs, request);
    return context.json(viewOf(world, record, await nameOf(record.key.domid)), 201);
  });
  app.get('/v1/disks/:guest/:vdev', async (context) => {
    const record = await findDisk(daemon, context.req.param('guest'), context.req.param('vdev'));
    return context.json(viewOf(world, record, await nameOf(record.key.domid)));
  });
  app.delete('/v1/disks/:guest/:vdev', async (context) => {
    const { guest, vdev } = context.req.param();
    await detach(daemon, verbs, guest, vdev, context.req.query('force') === '1');
    return context.body(null, 204);
  });
  app.get('/v1/disks/:guest/:vdev/why', async (context) => {
    const record = await findDisk(daemon, context.req.param('guest'), context.req.param('vdev'));
    return context.json(whyOf(world, record, await nameOf(record.key.domid)));
  });
  app.post('/v1/disks/:guest/:vdev/resize', async (context) => {
    const { guest, vdev } = context.req.param();
    const { size } = await parsed(context, ResizeRequest);
    return context.json({ size: await resize(daemon, guest, vdev, size) });
  });
  trafficRoutes(app, options);
  app.get('/v1/users', async (context) =>
    context.json({ users: await usersOf(daemon, context.req.query('path') ?? '') }),
  );
  app.get('/v1/events', (context) => streamEvents(context, options.events));
  loopRoutes(app, options);
  app.notFound((context) => {
    const what = `${context.req.method} ${context.req.path}`;
    return context.json(new Failure('not-found', `there is no ${what} in this API`), 404);
  });
  app.onError((thrown, context) => {
    if (!(thrown instanceof Failure)) world.log('error', sentenceOf(thrown));
    const failure = thrown instanceof Failure ? thrown : new Failure('io', sentenceOf(thrown));
    return context.json(failure.toJSON(), failure.httpStatus as 400);
  });
  return app;
}

/** Looking at a path that one names is done with vbdd's own rights. */
const adminsOnly: ReadonlySet<string> = new Set(['/v1/users']);

/** @throws Failure denied */
function whenAllowed(
  { req }: Context,
  { uid, rights }: Pick<Peer, 'uid' | 'rights'>,
  next: Next,
): Promise<void> {
  const looks = req.method === 'GET' && !adminsOnly.has(req.path);
  if (rights === 'admin' || (rights === 'read' && looks)) return next();
  const may =
    rights === 'read' ? 'may look at disks, and not do that' : 'may not ask vbdd anything';
  const keys = looks ? 'read_uids or read_gids' : 'admin_uids or admin_gids';
  throw new Failure('denied', `uid ${uid} ${may} — see ${keys} in vbdkit.conf`, { uid });
}

function trafficRoutes(app: Hono, { daemon, verbs }: ControlOptions): void {
  app.get('/v1/disks/:guest/:vdev/stat', async (context) => {
    const { guest, vdev } = context.req.param();
    return context.json(await statistics(daemon, guest, vdev));
  });
  app.put('/v1/disks/:guest/:vdev/medium', async (context) => {
    const { guest, vdev } = context.req.param();
    const { target } = await parsed(context, MediumRequest);
    await changeMedium(daemon, verbs.ownDomid, guest, vdev, target);
    return context.body(null, 204);
  });
  app.put('/v1/disks/:guest/:vdev/limits', async (context) => {
    const { guest, vdev } = context.req.param();
    await limit(daemon, guest, vdev, limitsOf(await parsed(context, LimitsRequest)));
    return context.body(null, 204);
  });
  app.get('/v1/traffic', async (context) => context.json({ disks: await traffic(daemon) }));
}

function loopRoutes(app: Hono, { leases, peerOf }: ControlOptions): void {
  app.get('/v1/loops', (context) => context.json({ loops: leases.list() }));
  app.post('/v1/loops', async (context) => {
    const request = await parsed(context, LoopRequest);
    const lease = leases.take(
      {
        path: request.path,
        fd: request.fd,
        readOnly: request.read_only,
        offsetBytes: request.offset,
        directIo: request.direct_io,
      },
      peerOf(context).pid,
    );
    if (request.hold === 'lease') return context.json(lease.view, 201);
    context.status(201);
    return stream(context, async (body) => {
      using _lease = lease;
      const ended = Promise.withResolvers<void>();
      body.onAbort(() => ended.resolve());
      await body.writeln(JSON.stringify(lease.view));
      await ended.promise;
    });
  });
  app.delete('/v1/loops/:number', (context) => {
    leases.give(Number(context.req.param('number')));
    return context.body(null, 204);
  });
}

/** Events that an asker may leave unread; then it is let go. */
const MOST_UNREAD = 1000;

/** A line of JSON for each event, for as long as the asker listens; the first line says that it does. */
export function streamEvents(context: Context, events: Pick<Events, 'follow'>): Response {
  context.header('content-type', 'application/x-ndjson');
  return stream(context, async (body) => {
    const ended = Promise.withResolvers<void>();
    body.onAbort(() => ended.resolve());
    let unread = 0;
    using _following = events.follow((event) => {
      unread += 1;
      if (unread > MOST_UNREAD) return ended.resolve();
      void body.writeln(JSON.stringify(event)).then(() => {
        unread -= 1;
      });
    });
    await body.writeln('{"event":"listening"}');
    await ended.promise;
  });
}

function statusOf({ daemon, version }: ControlOptions): object {
  const { loops, devices, store } = daemon.world;
  return {
    version,
    pid: process.pid,
    disks: daemon.disks.records.size,
    loop_devices: loops.bound,
    spare_loop_devices: loops.spare,
    block_devices: devices.held,
    rss_bytes: process.memoryUsage.rss(),
    store: store.counts,
  };
}

/** The request's body. @throws Failure invalid, saying which field is wrong */
async function parsed<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  const text = await context.req.text();
  let value: unknown;
  try {
    value = text === '' ? {} : JSON.parse(text);
  } catch (thrown) {
    throw new Failure('invalid', 'the request is not JSON', {}, thrown);
  }
  return checkSchema(schema, value, 'the request');
}
