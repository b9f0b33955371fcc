/** What vbdd does for each operation of its API. */
import type { Context } from 'hono';
import { stream } from 'hono/streaming';
import { limitsOf } from '../tap/limits.ts';
import type { Answer, Asked } from './api/operations.ts';
import type { ControlOptions, Handlers } from './control.ts';
import type { Events } from './events.ts';
import { diskMaps } from './disk-map.ts';
import { guestNames } from './guests.ts';
import { createLoads, loadOf } from './load.ts';
import { changeMedium } from './media.ts';
import { pause } from './pause.ts';
import { limit, statistics, traffic } from './traffic.ts';
import { usersOf, usersOfDisk } from './users.ts';
import { attach, detach, dryRun, findDisk, resize } from './verbs.ts';
import { viewOf, whyOf } from './views.ts';

/** The handlers over a daemon and what goes with it. */
export function handlersOf(options: ControlOptions): Handlers {
  const { daemon, verbs, leases, events } = options;
  const { world, disks } = daemon;
  const mapOf = diskMaps(daemon);
  const loads = createLoads(() => loadOf(daemon, options.sysfs), world.now);
  const nameOf = async (domid: number): Promise<string | undefined> =>
    (await guestNames(world.store, [domid])).get(domid);
  return {
    'GET /v1/status': (_, context) => statusOf(options, context),
    async 'GET /v1/disks'() {
      const records = [...disks.records.values()];
      const names = await guestNames(
        world.store,
        records.map((record) => record.key.domid),
      );
      const views = records.map((record) => viewOf(world, record, names.get(record.key.domid)));
      return { disks: views.sort((a, b) => a.domid - b.domid || a.devid - b.devid) };
    },
    async 'POST /v1/disks'({ body }) {
      const record = await attach(daemon, verbs, body);
      return viewOf(world, record, await nameOf(record.key.domid));
    },
    'POST /v1/dry-run': ({ body }) => dryRun(daemon, body),
    async 'GET /v1/disks/{guest}/{vdev}'({ path: { guest, vdev } }) {
      const record = await findDisk(daemon, guest, vdev);
      return viewOf(world, record, await nameOf(record.key.domid));
    },
    'DELETE /v1/disks/{guest}/{vdev}': ({ path: { guest, vdev }, query }) =>
      detach(daemon, verbs, guest, vdev, query.force === '1'),
    async 'GET /v1/disks/{guest}/{vdev}/why'({ path: { guest, vdev } }) {
      const record = await findDisk(daemon, guest, vdev);
      return whyOf(world, record, await nameOf(record.key.domid));
    },
    async 'POST /v1/disks/{guest}/{vdev}/resize'({ path: { guest, vdev }, body }) {
      return { size: await resize(daemon, guest, vdev, body.size) };
    },
    'GET /v1/disks/{guest}/{vdev}/stat': ({ path: { guest, vdev } }) =>
      statistics(daemon, guest, vdev),
    'PUT /v1/disks/{guest}/{vdev}/medium': ({ path: { guest, vdev }, body }) =>
      changeMedium(daemon, verbs.ownDomid, guest, vdev, body.target),
    'PUT /v1/disks/{guest}/{vdev}/limits': ({ path: { guest, vdev }, body }) =>
      limit(daemon, guest, vdev, limitsOf(body)),
    'PUT /v1/disks/{guest}/{vdev}/paused': ({ path: { guest, vdev }, body }) =>
      pause(daemon, guest, vdev, body.paused),
    async 'GET /v1/disks/{guest}/{vdev}/users'({ path: { guest, vdev } }) {
      return { users: await usersOfDisk(daemon, await findDisk(daemon, guest, vdev)) };
    },
    'GET /v1/disks/{guest}/{vdev}/map': ({ path: { guest, vdev }, query }) =>
      mapOf(guest, vdev, query.cells),
    'GET /v1/load': () => loads(),
    'GET /v1/traffic': async () => ({ disks: await traffic(daemon) }),
    'GET /v1/users': async ({ query }) => ({ users: await usersOf(daemon, query.path) }),
    'GET /v1/events': (_, context) => streamEvents(context, events),
    'GET /v1/loops': () => ({ loops: leases.list() }),
    'POST /v1/loops': ({ body }, context) => takeLease(options, body, context),
    'DELETE /v1/loops/{number}': ({ path }) => leases.give(Number(path.number)),
  };
}

function takeLease(
  { leases, peerOf }: ControlOptions,
  request: Asked<'POST /v1/loops'>['body'],
  context: Context,
): Answer<'POST /v1/loops'> | Response {
  const { path, fd, read_only: readOnly, offset: offsetBytes, direct_io: directIo } = request;
  const { pid } = peerOf(context);
  if (pid === undefined) throw new Error('a loop device is asked for by TCP');
  const lease = leases.take({ path, fd, readOnly, offsetBytes, directIo }, pid);
  if (request.hold === 'lease') return lease.view;
  context.status(201);
  return stream(context, async (body) => {
    using _lease = lease;
    const ended = Promise.withResolvers<void>();
    body.onAbort(() => ended.resolve());
    await body.writeln(JSON.stringify(lease.view));
    await ended.promise;
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

function statusOf(
  { daemon, version, peerOf }: ControlOptions,
  context: Context,
): Answer<'GET /v1/status'> {
  const { loops, devices, store } = daemon.world;
  const { requests, roundTrips } = store.counts;
  return {
    version,
    pid: process.pid,
    rights: peerOf(context).rights === 'admin' ? 'admin' : 'read',
    disks: daemon.disks.records.size,
    loop_devices: loops.bound,
    spare_loop_devices: loops.spare,
    block_devices: devices.held,
    rss_bytes: process.memoryUsage.rss(),
    store: { requests, round_trips: roundTrips },
  };
}
