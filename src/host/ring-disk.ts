/** A guest's disk over a shared ring: what its programs ask for, as requests that the ring can hold. */
import { Socket } from 'node:net';
import { SECTOR_BYTES } from '../base/units.ts';
import { duplicateFd } from '../sys/fd.ts';
import type { BlockRequest, RingFrontend } from './ring-frontend.ts';
import type { DiskRequest, DiskResponse, DiskStatus, Ring } from './rings.ts';

const statuses: Readonly<Record<string, DiskStatus>> = { '0': 'ok', '-2': 'unsupported' };

/** A request, and who waits for its status. */
interface Asked {
  readonly request: BlockRequest;
  readonly onAnswer: (status: number) => void;
}

export interface RingDisk extends Ring, Disposable {
  /** What was not answered: it is asked again on the rings that come after these. */
  unanswered(): readonly Asked[];
}

/**
 * Serves requests over the frontends' rings, in turn, until it is disposed, and they with it.
 * @param before what was asked for on earlier rings of the disk
 */
export function ringDisk(
  frontends: readonly RingFrontend[],
  before: readonly Asked[] = [],
): RingDisk {
  const queues = frontends.map(startQueue);
  for (const asked of before) queues[0]?.take(asked);
  const mostBytes = Math.min(...frontends.map((frontend) => frontend.mostBytes));
  let last = 0;
  const ask = (request: BlockRequest): Promise<number> => {
    last = (last + 1) % queues.length;
    return queues[last]?.ask(request) ?? Promise.reject(new Error('a disk has queues'));
  };
  return {
    serve: (request) => serve(request, mostBytes, ask),
    unanswered: () => queues.flatMap((queue) => queue.unanswered()),
    [Symbol.dispose]() {
      for (const queue of queues) queue[Symbol.dispose]();
    },
  };
}

interface Queue extends Disposable {
  ask(request: BlockRequest): Promise<number>;
  take(asked: Asked): void;
  unanswered(): readonly Asked[];
}

function startQueue(frontend: RingFrontend): Queue {
  const waiting: Asked[] = [];
  const begun = new Set<Asked>();
  const begin = (asked: Asked): boolean =>
    frontend.begin(asked.request, (status) => {
      begun.delete(asked);
      asked.onAnswer(status);
    });
  const pump = (): void => {
    for (let [next] = waiting; next !== undefined && begin(next); [next] = waiting) {
      begun.add(next);
      waiting.shift();
    }
    frontend.push();
  };
  const take = (asked: Asked): void => {
    waiting.push(asked);
    pump();
  };
  // The event channel is a FIFO: Node's own loop waits for it.
  const events = new Socket({
    fd: duplicateFd(frontend.fd).number,
    readable: true,
    writable: false,
  });
  events.unref();
  events.on('data', () => {
    frontend.poll();
    pump();
  });
  return {
    ask(request) {
      const { promise, resolve } = Promise.withResolvers<number>();
      take({ request, onAnswer: resolve });
      return promise;
    },
    take,
    unanswered: () => [...begun, ...waiting],
    [Symbol.dispose]() {
      events.destroy();
      frontend[Symbol.dispose]();
    },
  };
}

async function serve(
  request: DiskRequest,
  mostBytes: number,
  ask: (request: BlockRequest) => Promise<number>,
): Promise<DiskResponse> {
  if (request.op === 'flush')
    return { status: statusOf(await ask({ operation: 'flush', sector: 0 })) };
  if (request.op === 'discard') {
    const { sector, sectors } = request;
    return { status: statusOf(await ask({ operation: 'discard', sector, sectors })) };
  }
  const isRead = request.op === 'read';
  const data = isRead ? new Uint8Array(request.sectors * SECTOR_BYTES) : request.data;
  const parts: Promise<number>[] = [];
  for (let at = 0; at < data.length; at += mostBytes) {
    const sector = request.sector + at / SECTOR_BYTES;
    const part = data.subarray(at, at + mostBytes);
    parts.push(ask({ operation: request.op, sector, data: part }));
  }
  const bad = (await Promise.all(parts)).find((status) => status !== 0);
  if (bad !== undefined) return { status: statusOf(bad) };
  return isRead ? { status: 'ok', data } : { status: 'ok' };
}

function statusOf(status: number): DiskStatus {
  return statuses[String(status)] ?? 'error';
}
