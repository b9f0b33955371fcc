/** The tap's API, for vbdd: JSON over HTTP on a unix socket. It knows images and rings, no store. */
import { type Context, Hono } from 'hono';
import { stream } from 'hono/streaming';
import { z } from 'zod';
import { Failure, sentenceOf } from '../base/failure.ts';
import { checkSchema } from '../base/schema.ts';
import { imageFormats } from '../image/formats.ts';
import { MOST_QUEUES, MOST_RING_PAGES } from '../ring/blkif.ts';
import type { WhenFull as WhenFullWord } from '../ring/request-work.ts';
import { LimitsRequest, limitsOf } from './limits.ts';
import type { DiskState, Medium, OpenedDisk } from './orders.ts';
import { removeLeftovers } from './records.ts';
import { createUnlock, type Unlock } from './unlock.ts';
import type { Workers } from './workers.ts';

/** Writes that there is no room for wait until there is, or the guest is told of an error. */
export const WhenFull: z.ZodType<WhenFullWord> = z.enum(['pause', 'report']);

const WhenFullRequest = z.strictObject({ when_full: WhenFull });

const HoldRequest = z.strictObject({ held: z.boolean() });

const KeptRequest = z.strictObject({ names: z.array(z.string()) });

/** Without a path, nothing is in the drive. */
const mediumFields = {
  path: z.string().startsWith('/').optional(),
  format: z.enum(imageFormats).default('raw'),
  allow_paths: z.array(z.string()).default([]),
  direct: z.boolean().default(false),
  /** Of what is encrypted of it. */
  passphrase: z.base64().optional(),
};
const MediumRequest = z.strictObject(mediumFields);

const OpenRequest = z.strictObject({
  ...mediumFields,
  writable: z.boolean(),
  beside: z.string().optional(),
  when_full: WhenFull.default('pause'),
  /** Of a disk that no tap has served before. */
  limits: LimitsRequest.prefault({}),
});

async function mediumOf(
  unlock: Unlock,
  request: z.infer<typeof MediumRequest>,
  waits: AbortSignal,
): Promise<Medium | undefined> {
  const { path, format, allow_paths: allowPaths, direct, passphrase } = request;
  if (path === undefined) return undefined;
  const medium = { path, format, allowPaths, direct };
  if (passphrase === undefined) return medium;
  return unlock(medium, Buffer.from(passphrase, 'base64'), waits);
}

const word = z.int().min(0).max(0xffff_ffff);
const ConnectRequest = z.strictObject({
  domid: z.int().min(0).max(0x7fff),
  queues: z
    .array(
      z.strictObject({
        references: z.array(word).min(1).max(MOST_RING_PAGES),
        port: word,
      }),
    )
    .min(1)
    .max(MOST_QUEUES),
  persistent: z.boolean().default(false),
  protocol: z.string().optional(),
  discard: z.boolean().default(true),
  take_up: z.boolean().default(false),
});

const ResizeRequest = z.strictObject({ size: z.int().positive() });

/** The API as a fetch handler; the server gives it requests from checked peers only. */
export function tapApi(workers: Workers, version: string, runFolder: string): Hono {
  const app = new Hono();
  const unlock = createUnlock(workers);
  streamRoutes(app, workers);
  app.get('/v1/status', async (context) =>
    context.json({ version, pid: process.pid, disks: (await workers.list()).map(stateView) }),
  );
  // Names all disks that there are: what is left of others is removed.
  app.put('/v1/kept', async (context) => {
    const { names } = await bodyOf(context, KeptRequest);
    removeLeftovers(runFolder, new Set([...names, ...workers.names()]));
    return context.body(null, 204);
  });
  app.put('/v1/disks/:name', async (context) => {
    const body = await bodyOf(context, OpenRequest);
    const { writable, beside, when_full: whenFull, limits, ...request } = body;
    const name = context.req.param('name');
    const medium = await mediumOf(unlock, request, context.req.raw.signal);
    const how = { writable, beside, whenFull, limits: limitsOf(limits) };
    return context.json(viewOf(await workers.open({ name, medium, ...how })));
  });
  app.get('/v1/disks/:name', async (context) => {
    const name = context.req.param('name');
    const disk = (await workers.list()).find((each) => each.name === name);
    if (disk === undefined) throw new Failure('not-found', `the tap has no disk ${name}`);
    const { opened, connected, nbdClients, paused } = disk;
    return context.json({ ...viewOf(opened), connected, nbd_clients: nbdClients, paused });
  });
  changeRoutes(app, workers, unlock);
  app.delete('/v1/disks/:name', async (context) => {
    return context.json(await workers.order('close', { name: context.req.param('name') }));
  });
  app.put('/v1/disks/:name/ring', async (context) => {
    const { take_up: takeUp, ...rest } = await bodyOf(context, ConnectRequest);
    await workers.order('connect', { name: context.req.param('name'), ...rest, takeUp });
    return context.body(null, 204);
  });
  app.delete('/v1/disks/:name/ring', async (context) => {
    await workers.order('disconnect', { name: context.req.param('name') });
    return context.body(null, 204);
  });
  app.notFound((context) => {
    const failure = new Failure('not-found', `the tap has no ${context.req.path}`);
    return context.json(failure.toJSON(), 404);
  });
  app.onError((thrown, context) => {
    const failure = thrown instanceof Failure ? thrown : new Failure('io', sentenceOf(thrown));
    return context.json(failure.toJSON(), failure.httpStatus as 400);
  });
  return app;
}

/** What changes of a disk that is open. */
function changeRoutes(app: Hono, workers: Workers, unlock: Unlock): void {
  app.put('/v1/disks/:name/medium', async (context) => {
    const request = await bodyOf(context, MediumRequest);
    const medium = await mediumOf(unlock, request, context.req.raw.signal);
    const name = context.req.param('name');
    return context.json(viewOf(await workers.order('change', { name, medium })));
  });
  app.put('/v1/disks/:name/nbd', async (context) =>
    context.json(await workers.order('export', { name: context.req.param('name') })),
  );
  app.put('/v1/disks/:name/size', async (context) => {
    const { size: sizeBytes } = await bodyOf(context, ResizeRequest);
    const name = context.req.param('name');
    return context.json(viewOf(await workers.order('resize', { name, sizeBytes })));
  });
  app.put('/v1/disks/:name/limits', async (context) => {
    const limits = limitsOf(await bodyOf(context, LimitsRequest));
    await workers.order('limit', { name: context.req.param('name'), limits });
    return context.body(null, 204);
  });
  app.put('/v1/disks/:name/held', async (context) => {
    const { held } = await bodyOf(context, HoldRequest);
    await workers.order('hold', { name: context.req.param('name'), held });
    return context.body(null, 204);
  });
  app.put('/v1/disks/:name/when-full', async (context) => {
    const { when_full: whenFull } = await bodyOf(context, WhenFullRequest);
    await workers.order('whenFull', { name: context.req.param('name'), whenFull });
    return context.body(null, 204);
  });
}

/** Answers that stay open. */
function streamRoutes(app: Hono, workers: Workers): void {
  // Open for as long as the tap lives: whoever asks learns of its end by the end of the answer.
  app.post('/v1/alive', (context) =>
    stream(context, async (body) => {
      const ended = Promise.withResolvers<void>();
      body.onAbort(() => ended.resolve());
      await body.write('{}\n');
      await ended.promise;
    }),
  );
  // A line for each disk that begins to wait for room, and when it does so no longer; and at first for
  // those that wait already.
  app.get('/v1/pauses', (context) =>
    stream(context, async (body) => {
      const tell = ({ name, paused }: { name: string; paused: string | null }): void =>
        void body.writeln(JSON.stringify({ name, paused }));
      using _following = workers.onPause(tell);
      for (const disk of await workers.list()) if (disk.paused !== null) tell(disk);
      const ended = Promise.withResolvers<void>();
      body.onAbort(() => ended.resolve());
      await ended.promise;
    }),
  );
}

function stateView({ opened, nbdClients, ...state }: DiskState): object {
  return { ...state, nbd_clients: nbdClients, ...viewOf(opened) };
}

function viewOf({ clusterBytes, sectorBytes, ...opened }: OpenedDisk): object {
  return { ...opened, cluster_bytes: clusterBytes, sector_bytes: sectorBytes };
}

async function bodyOf<T>(context: Context, schema: z.ZodType<T>): Promise<T> {
  const body: unknown = await context.req.json().catch(() => undefined);
  return checkSchema(schema, body, 'the request');
}
