/** What each command may be asked, and what it makes the engine do. */
import { PENDING } from '../image/engine-contract.ts';
import { replyInChunks } from './chunks.ts';
import { type Connection, release } from './connection.ts';
import type { NbdExport } from './exports.ts';
import { MAX_REQUESTS } from './memory.ts';
import { noteBegun, noteEnded } from './metered.ts';
import { cacheRange, replyStatus } from './ranges.ts';
import { replyData, replyPlain } from './replies.ts';
import { send } from './send.ts';
import { Command, CommandFlag, errorOf, MAX_PAYLOAD_BYTES, NbdError } from './wire.ts';

const { fua, noHole, dontFragment, requestOne, fastZero, payloadLength } = CommandFlag;

interface CommandRow {
  /** Flags that may be set. FUA is allowed with every command, and means nothing to most. */
  readonly flags: number;
  /** It changes the disk. */
  readonly writes: boolean;
  /** The error of a range that is not within the disk; undefined where no range is given. */
  readonly beyond: number | undefined;
}

/** The commands that are answered. */
const rows: Readonly<Record<number, CommandRow>> = {
  [Command.read]: { flags: fua | dontFragment, writes: false, beyond: NbdError.invalid },
  [Command.write]: { flags: fua | payloadLength, writes: true, beyond: NbdError.noSpace },
  [Command.flush]: { flags: fua, writes: false, beyond: undefined },
  [Command.trim]: { flags: fua, writes: true, beyond: NbdError.invalid },
  [Command.cache]: { flags: fua, writes: false, beyond: NbdError.invalid },
  [Command.writeZeroes]: {
    flags: fua | noHole | fastZero,
    writes: true,
    beyond: NbdError.noSpace,
  },
  [Command.blockStatus]: { flags: fua | requestOne, writes: false, beyond: NbdError.invalid },
  [Command.resize]: { flags: fua, writes: true, beyond: undefined },
};

/** Why a request cannot be carried out, as an error of the protocol; 0 when it can. */
export function judge(
  connection: Connection,
  of: NbdExport,
  type: number,
  flags: number,
  at: number,
  lengthBytes: number,
): number {
  const row = rows[type];
  if (row === undefined || (flags & ~row.flags) !== 0) return NbdError.invalid;
  if (!connection.extended && (flags & payloadLength) !== 0) return NbdError.invalid;
  if (row.writes && !of.writable) return NbdError.perm;
  if (row.beyond !== undefined && at + lengthBytes > of.image.sizeBytes) return row.beyond;
  if ((type === Command.read || type === Command.write) && lengthBytes > MAX_PAYLOAD_BYTES) {
    return NbdError.invalid;
  }
  if (type === Command.blockStatus && (connection.contexts.length === 0 || lengthBytes === 0)) {
    return NbdError.invalid;
  }
  // What must not make a hole is written where the file system cannot do better: no promise.
  if ((flags & fastZero) !== 0 && (!of.fastZero || (flags & noHole) !== 0)) {
    return NbdError.notSupported;
  }
  return 0;
}

/** Carries out a request that `judge` allowed and that holds the pages it needs. */
export function execute(connection: Connection, of: NbdExport, request: number): void {
  const { requests, memory, index } = connection;
  const { engine, firstTag } = connection.service;
  const tag = firstTag + index * MAX_REQUESTS + request;
  const at = requests.at[request] ?? 0;
  const length = requests.lengthBytes[request] ?? 0;
  const flags = requests.flags[request] ?? 0;
  const pagesAt = requests.pagesAt[request] ?? 0;
  const durable = (flags & fua) !== 0;
  noteBegun(connection, request);
  switch (requests.type[request]) {
    case Command.read:
      if (length === 0) return done(connection, request, 0);
      if (replyInChunks(connection, of, request)) {
        noteEnded(connection, request, 0);
        return sendEarly(connection);
      }
      return settle(connection, request, engine.read(of.image, at, length, memory, pagesAt, tag));
    case Command.write:
      if (length === 0) return done(connection, request, 0);
      return settle(
        connection,
        request,
        engine.write(of.image, at, length, memory, pagesAt, durable, tag),
      );
    case Command.flush:
      return settle(connection, request, engine.flush(of.image, tag));
    case Command.trim:
      if (length === 0) return done(connection, request, 0);
      return settle(connection, request, engine.discard(of.image, at, length, durable, tag));
    case Command.writeZeroes: {
      if (length === 0) return done(connection, request, 0);
      const unmap = (flags & noHole) === 0;
      return settle(connection, request, engine.zero(of.image, at, length, unmap, durable, tag));
    }
    case Command.cache:
      return done(connection, request, cacheRange(connection.service, of.image, at, length));
    case Command.blockStatus:
      return replyStatus(connection, of, request);
    case Command.resize:
      return settle(connection, request, engine.resize(of.image, at, tag));
    default:
      return done(connection, request, NbdError.invalid);
  }
}

function settle(connection: Connection, request: number, answer: number): void {
  if (answer === PENDING) connection.pending += 1;
  else done(connection, request, answer);
}

/** A request has ended, with an errno or 0: it is answered. */
export function done(connection: Connection, request: number, errno: number): void {
  const { requests } = connection;
  noteEnded(connection, request, errno);
  if (connection.life === 'lost') return release(connection, request);
  const reads = requests.type[request] === Command.read && (requests.lengthBytes[request] ?? 0) > 0;
  if (errno === 0 && reads) replyData(connection, request);
  else replyPlain(connection, request, errorOf(errno));
  sendEarly(connection);
}

/** So much is better sent while it is in the processor's cache than gathered with more. */
const EARLY_BYTES = 256 * 1024;

function sendEarly(connection: Connection): void {
  const { queue } = connection;
  if (queue.bytes >= EARLY_BYTES && !queue.blocked && !send(connection)) connection.life = 'lost';
}
