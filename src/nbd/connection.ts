/** One client: its socket, its memory, and how far its bytes have been taken. */
import type { Engine } from '../image/engine-contract.ts';
import type { Extents } from '../image/extents.ts';
import type { FileTable } from '../image/file-table.ts';
import type { Fd } from '../sys/fd.ts';
import type { ExportTable, NbdExport } from './exports.ts';
import { type Handshake, startHandshake, type TlsState } from './handshake.ts';
import { type ConnectionMemory, createMemory } from './memory.ts';
import { createRequests, endRequest, type Requests } from './requests.ts';
import { createSendQueue, type Sender } from './send.ts';
import { putError } from './replies.ts';

/** What all connections of a server share; used by one thread. */
export interface Service {
  readonly engine: Engine;
  readonly files: FileTable;
  readonly exports: ExportTable;
  /** A list that is used again for each mapping. */
  readonly extents: Extents;
  /** Where the tags of its requests begin, in an engine that others use, too. */
  readonly firstTag: number;
  /** Collects what the engine has ended, and tells those whose it was. */
  readonly reap: () => void;
}

export interface Connection extends Sender {
  readonly service: Service;
  readonly fd: Fd;
  readonly memory: ConnectionMemory;
  readonly requests: Requests;
  /** The high part of the tags of its requests. */
  readonly index: number;
  /** Where it came in; undefined for one that was handed over. */
  readonly listener: object | undefined;
  /** Until the client has chosen an export. */
  handshake: Handshake | undefined;
  export: NbdExport | undefined;
  structured: boolean;
  extended: boolean;
  /** What block status tells, as `contextsOf` numbers it. */
  contexts: readonly number[];
  /** What was received and not yet taken, as offsets in the receive buffer. */
  from: number;
  to: number;
  /** The write whose bytes are arriving (-1: none), and how many of them came. */
  filling: number;
  filled: number;
  /** Bytes of a payload that are thrown away; then this request fails with this error. */
  skipBytes: number;
  skipRequest: number;
  skipError: number;
  /** Requests that the engine has not ended. */
  pending: number;
  /** The next request waits for something that an earlier one holds, or for its disk's limits. */
  stalled: boolean;
  /** When it need not wait for those any more; 0: it does not. */
  slowUntilMs: number;
  /** `ending`: nothing more is taken, what was begun is answered; `lost`: nothing is sent either. */
  life: 'open' | 'ending' | 'lost';
  /** What epoll waits for. */
  interest: number;
  /** It is in the list of those that are attended to. */
  touched: boolean;
}

/** How a connection begins: with the handshake, or behind it. */
export type Beginning =
  | {
      readonly tls: TlsState;
      readonly noZeroes: boolean;
      /** What it may choose from; all of the service's unless said. */
      readonly exports?: ExportTable | undefined;
      readonly listener?: object | undefined;
    }
  | { readonly export: NbdExport };

/** A client that has just come. @param fd its socket, the connection's from now on */
export function createConnection(
  service: Service,
  fd: Fd,
  index: number,
  beginning: Beginning,
): Connection {
  const connection: Connection = {
    service,
    fd,
    socket: fd.number,
    memory: createMemory(),
    requests: createRequests(),
    queue: createSendQueue(),
    index,
    listener: 'export' in beginning ? undefined : beginning.listener,
    handshake:
      'export' in beginning
        ? undefined
        : startHandshake(beginning.exports ?? service.exports, beginning.tls, beginning.noZeroes),
    export: 'export' in beginning ? beginning.export : undefined,
    structured: false,
    extended: false,
    contexts: [],
    from: 0,
    to: 0,
    filling: -1,
    filled: 0,
    skipBytes: 0,
    skipRequest: -1,
    skipError: 0,
    pending: 0,
    stalled: false,
    slowUntilMs: 0,
    life: 'open',
    interest: 0,
    touched: false,
    sent: (request) => release(connection, request),
    failed(request, last) {
      const at = connection.queue.at[last] ?? 0;
      const length = putError(connection, request, at, 5);
      connection.queue.bytes += length - (connection.queue.lengthBytes[last] ?? 0);
      connection.queue.lengthBytes[last] = length;
    },
  };
  return connection;
}

/** Takes pages for a request. @returns false when there are none now */
export function holdPages(connection: Connection, request: number, lengthBytes: number): boolean {
  const at = connection.memory.pages.take(lengthBytes);
  if (at < 0) return false;
  connection.requests.pagesAt[request] = at;
  connection.requests.pagesBytes[request] = lengthBytes;
  return true;
}

/** A request is over: its index and its pages are free. */
export function release(connection: Connection, request: number): void {
  const { requests, memory } = connection;
  const at = requests.pagesAt[request] ?? -1;
  if (at >= 0) {
    memory.pages.give(at, requests.pagesBytes[request] ?? 0);
    requests.pagesAt[request] = -1;
  }
  endRequest(requests, request);
}
