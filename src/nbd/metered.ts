/** Requests for guests' disks: begun as the disk's limits allow, and counted when they have ended. */
import { Kind } from '../ring/statistics.ts';
import type { Connection } from './connection.ts';
import { Command } from './wire.ts';

/** @returns whether the connection's next request has to wait, until its `slowUntilMs` */
export function waitsForLimits(connection: Connection): boolean {
  const meter = connection.export?.meter;
  if (meter === undefined) return false;
  const nowMs = performance.now();
  const waitMs = meter.limiter.waitMs(nowMs);
  connection.slowUntilMs = waitMs > 0 ? nowMs + waitMs : 0;
  return waitMs > 0;
}

/** A request begins: its disk has that much less to spend. */
export function noteBegun(connection: Connection, request: number): void {
  const meter = connection.export?.meter;
  const { requests } = connection;
  const type = requests.type[request] ?? 0;
  if (meter === undefined || kindOf(type) < 0) return;
  // What moves no bytes is one request, however long: trimming a whole disk is not paid for by its length.
  const movesBytes = type === Command.read || type === Command.write;
  meter.limiter.spend(movesBytes ? (requests.lengthBytes[request] ?? 0) : 0);
  requests.begunMs[request] = performance.now();
  meter.statistics.noteUnderWay(1);
}

/** A request is over, with an errno or 0: it is counted. */
export function noteEnded(connection: Connection, request: number, errno: number): void {
  const meter = connection.export?.meter;
  if (meter === undefined) return;
  const { requests } = connection;
  const kind = kindOf(requests.type[request] ?? 0);
  if (kind < 0) return;
  const tookMs = performance.now() - (requests.begunMs[request] ?? 0);
  meter.statistics.noteUnderWay(-1);
  meter.statistics.count(kind, requests.lengthBytes[request] ?? 0, errno === 0, tookMs);
}

/** What a command counts as; -1 for those that move nothing of the disk. */
function kindOf(type: number): number {
  switch (type) {
    case Command.read:
      return Kind.read;
    case Command.write:
    case Command.writeZeroes:
      return Kind.write;
    case Command.flush:
      return Kind.flush;
    case Command.trim:
      return Kind.discard;
    default:
      return -1;
  }
}
