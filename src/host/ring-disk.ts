/** A guest's disk over a shared ring: what its programs ask for, as requests that the ring can hold. */
import { Socket } from 'node:net';
import { SECTOR_BYTES } from '../base/units.ts';
import { duplicateFd } from '../sys/fd.ts';
import type { BlockRequest, RingFrontend } from './ring-frontend.ts';
import type { DiskRequest, DiskResponse, DiskStatus, Ring } from './rings.ts';

const statuses: Readonly<Record<string, DiskStatus>> = { '0': 'ok', '-2': 'unsupported' };

/** Serves requests over the frontends' rings, in turn, until it is disposed, and they with it. */
export function ringDisk(frontends: readonly RingFrontend[]): Ring & Disposable {
  const queues = frontends.map(startQueue);
  const mostBytes = Math.min(...frontends.map((frontend) => frontend.mostBytes));
  let last = 0;
  const ask = (request: BlockRequest): Promise<number> => {
    last = (last + 1) % queues.length;
    return queues[last]?.ask(request) ?? Promise.reject(new Error('a disk has queues'));
  };
  return {
    serve: (request) => serve(request, mostBytes, ask),
    [Symbol.dispose]() {
      for (const queue of queues) queue[Symbol.dispose]();
    },
  };
}

interface Queue extends Disposable {
  ask(request: BlockRequest): Promise<number>;
}

function startQueue(frontend: RingFrontend): Queue {
  const waiting: { request: BlockRequest; onAnswer: (status: number) => void }[] = [];
  const pump = (): void => {
    while (waiting[0] !== undefined && frontend.begin(waiting[0].request, waiting[0].onAnswer)) {
      waiting.shift();
    }
    frontend.push();
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
      waiting.push({ request, onAnswer: resolve });
      pump();
      return promise;
    },
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
