/** The map of a disk's image: looked up by a process of its own, one at a time. */
import { fork } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DiskRecord } from '../backend/disk-record.ts';
import { imageOfVbd } from '../backend/look.ts';
import { imageOfParams } from '../backend/ring-image.ts';
import { Failure } from '../base/failure.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { vdevName } from '../disk/vdev.ts';
import type { MapView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';
import type { MapMessage, MapRequest } from './map-worker.ts';
import { findDisk } from './verbs.ts';

/** A map that takes longer is given up. */
const MOST_MS = 10_000;
/** So long one that was killed has to end; it does not where the kernel waits for storage. */
const END_MS = 1000;
/** So many may wait for one that is being looked up. */
const MOST_WAITING = 8;

/** Gives maps of disks. */
export type Maps = (guest: string, vdev: string, mostCells: number) => Promise<MapView>;

/** Maps of the daemon's disks. @param mostMs a map that takes longer is given up */
export function diskMaps(daemon: Daemon, mostMs = MOST_MS): Maps {
  let last: Promise<unknown> = Promise.resolve();
  let waiting = 0;
  /** The image of the process that is there. */
  const lookedAt = new Set<string>();
  return async (guest, vdev, mostCells) => {
    const record = await findDisk(daemon, guest, vdev);
    if (waiting === MOST_WAITING) {
      throw new Failure('unavailable', 'other maps are being looked up — ask again');
    }
    waiting += 1;
    // Its files are those that it has when its turn comes.
    const looked = last.then(() => lookUp(requestOf(daemon, record, mostCells), mostMs, lookedAt));
    last = looked.catch(() => {});
    try {
      return viewOf(await looked);
    } finally {
      waiting -= 1;
    }
  };
}

function requestOf({ world }: Daemon, record: DiskRecord, mostCells: number): MapRequest {
  const { held, ring, path } = record;
  const members = world.holdings.get(path)?.members ?? ring?.image.members ?? [];
  const own = held?.facts.member ?? ring?.image.members[0];
  if (own === undefined) {
    const what = `${vdevName(record.key.devid)} of domain ${record.key.domid}`;
    throw new Failure('unsupported', `vbdkit has no image of ${what} open — see vbd why`);
  }
  const place = { path: own.path, format: formatOf(record) };
  return { place, held: [own, ...members].map(({ identity }) => identity), mostCells };
}

/** As which it was opened. */
function formatOf({ key, held, ring, nodes }: DiskRecord): ImagePlace['format'] {
  if (held !== undefined) return held.nbd?.image.format ?? 'raw';
  const params = ring?.params ?? nodes?.params ?? '';
  const isVbd = key.kind === 'vbd';
  return (isVbd ? imageOfVbd({ script: nodes?.script, params }) : imageOfParams(params)).format;
}

type Found = Exclude<MapMessage, { error: unknown }>;

/** A thread could not be ended while it reads from storage that hangs, and vbdd neither. */
async function lookUp(request: MapRequest, mostMs: number, lookedAt: Set<string>): Promise<Found> {
  const [hung] = lookedAt;
  if (hung !== undefined) {
    throw new Failure(
      'unavailable',
      `the storage of ${hung} hangs, and maps wait — ask again later`,
    );
  }
  const { path } = request.place;
  const { promise, resolve, reject } = Promise.withResolvers<MapMessage>();
  const ended = Promise.withResolvers<void>();
  const child = fork(new URL('./map-worker.ts', import.meta.url), {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  // vbdd ends when it is told to, and takes this along.
  child.unref();
  child.channel?.unref();
  const kill = (): void => void child.kill('SIGKILL');
  if (child.pid !== undefined) {
    process.once('exit', kill);
    lookedAt.add(path);
  }
  child.once('exit', () => {
    process.off('exit', kill);
    lookedAt.delete(path);
    ended.resolve();
    reject(new Error(`the map of ${path} ended without an answer`));
  });
  child.once('message', (said) => resolve(said as MapMessage)).on('error', reject);
  child.send(request);
  const sentence = `the map of ${path} takes longer than ${mostMs / 1000} s — try vbd map`;
  const timer = setTimeout(() => reject(new Failure('timeout', sentence)), mostMs).unref();
  try {
    const said = await promise;
    if (!('error' in said)) return said;
    throw new Failure(said.error.kind, said.error.message, said.error.facts);
  } finally {
    clearTimeout(timer);
    kill();
    await Promise.race([ended.promise, sleep(END_MS, undefined, { ref: false })]);
  }
}

function viewOf({ sizeBytes, cells, chain }: Found): MapView {
  const sum = (values: readonly number[]): number => values.reduce((all, each) => all + each, 0);
  const { cellBytes, own, below } = cells;
  return {
    size: sizeBytes,
    own_bytes: sum(own),
    below_bytes: sum(below),
    chain,
    cell_bytes: cellBytes,
    own,
    below,
  };
}
