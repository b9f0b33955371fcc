/** A host at work as the web page sees it: the operations that it asks, with figures that are others each second. */
import { Hono } from 'hono';
import { stream } from 'hono/streaming';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DiskView, LoadView } from '../../src/daemon/api/shapes.ts';

const DISKS_OF_A_GUEST = 3;
const XVDA = 51_712;

/** So many disks, all of them at work, and so many events a second. */
export function busyApi(count: number, eventsPerSecond: number): Hono {
  const disks = Array.from({ length: count }, (_, index) => diskOf(index));
  const loads = disks.map(({ domid, devid }) => ({ domid, devid, ...nothingDone }));
  const app = new Hono();
  app.get('/v1/status', (context) =>
    context.json({ version: '1.2.3', rights: 'read', pid: 1, disks: count }),
  );
  app.get('/v1/disks', (context) => context.json({ disks }));
  app.get('/v1/load', (context) =>
    context.json({ time_ms: performance.now(), disks: loads.map(worked) }),
  );
  app.get('/v1/events', (context) =>
    stream(context, async (body) => {
      await body.writeln('{"event":"listening"}');
      for (let turn = 0; !body.aborted; turn++) {
        await sleep(eventsPerSecond > 0 ? 1000 / eventsPerSecond : 1000);
        if (eventsPerSecond === 0) continue;
        const disk = disks[(turn * 7) % count];
        if (disk === undefined) return;
        const state = turn % 2 === 0 ? 'paused' : 'attached';
        const told = { ...disk, state };
        await body.writeln(
          JSON.stringify({ time: new Date().toISOString(), event: state, disk: told }),
        );
      }
    }),
  );
  return app;
}

function diskOf(index: number): DiskView {
  const domid = 1 + Math.floor(index / DISKS_OF_A_GUEST);
  const place = index % DISKS_OF_A_GUEST;
  const path = `/srv/images/guest-${domid}/disk-${place}.qcow2`;
  const parent = `/srv/images/base-${domid % 5}.qcow2`;
  return {
    domid,
    guest: `guest-${domid}`,
    vdev: `xvd${'abc'[place]}`,
    devid: XVDA + 16 * place,
    kind: 'vbd3',
    state: 'attached',
    mode: 'w',
    path,
    device: 'ring',
    sharers: 1,
    error: null,
    warning: null,
    hold_ms: 0.31,
    files: [
      { path, mode: 'w' },
      { path: parent, mode: 'r' },
    ],
  };
}

const nothingDone = {
  reads: 0,
  writes: 0,
  read_bytes: 0,
  write_bytes: 0,
  read_us: 0,
  write_us: 0,
  under_way: 0,
};

/** What a disk has done a moment later. */
function worked(load: Mutable<LoadView>): LoadView {
  const [reads, writes] = [Math.ceil(Math.random() * 900), Math.ceil(Math.random() * 400)];
  load.reads += reads;
  load.writes += writes;
  load.read_bytes += reads * 16_384;
  load.write_bytes += writes * 8192;
  load.read_us = (load.read_us ?? 0) + reads * Math.ceil(80 + Math.random() * 400);
  load.write_us = (load.write_us ?? 0) + writes * Math.ceil(120 + Math.random() * 900);
  load.under_way = Math.floor(Math.random() * 32);
  return load;
}

type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };
