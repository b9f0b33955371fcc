/** An NBD client that says exactly what a test wants said, and hears every reply as it came. */
import { once } from 'node:events';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { type Duplex } from 'node:stream';
import { exportChoice, flags, option, parseReplies, type Reply } from './wire-text.ts';

export interface Request {
  readonly type: number;
  readonly at?: number | bigint;
  readonly length?: number | bigint;
  readonly flags?: number;
  readonly data?: Uint8Array;
  readonly cookie?: bigint;
}

/** One message of a reply. */
export interface Chunk {
  readonly kind: 'simple' | 'structured' | 'extended';
  readonly cookie: bigint;
  /** Of a simple reply its error, else the chunk's type. */
  readonly type: number;
  readonly done: boolean;
  readonly payload: Buffer;
}

export interface NbdClient extends Disposable {
  /** The first facts that GO told: size and transmission flags. */
  readonly sizeBytes: number;
  readonly transmissionFlags: number;
  send(...requests: Request[]): void;
  /** The next message; `bytes` is what a simple reply to a read carries when it is no error. */
  next(bytes?: number): Promise<Chunk>;
  /** Sends one request and takes its whole reply. */
  ask(request: Request): Promise<Chunk[]>;
  /** The next bytes as they come. */
  bytes(count: number): Promise<Buffer>;
  /** Sends these very bytes. */
  say(bytes: Uint8Array): void;
  /** True when the server closes without another byte. */
  closed(): Promise<boolean>;
}

export interface Ways {
  readonly name?: string;
  readonly structured?: boolean;
  readonly extended?: boolean;
  /** Option requests before GO. */
  readonly options?: readonly Uint8Array[];
}

/** Reads exactly so many bytes of a stream at a time. */
export function byteReader(stream: Duplex): (count: number) => Promise<Buffer> {
  let kept: Buffer[] = [];
  const there = { bytes: 0 };
  let wake = (): void => {};
  let ended = false;
  stream.on('data', (data: Buffer) => {
    kept.push(data);
    there.bytes += data.length;
    wake();
  });
  const end = (): void => {
    ended = true;
    wake();
  };
  stream.on('end', end);
  stream.on('close', end);
  stream.on('error', end);
  return async (count) => {
    while (there.bytes < count) {
      if (ended) throw new Error(`the server closed after ${there.bytes} of ${count} bytes`);
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      await promise;
    }
    const all = kept.length === 1 && kept[0] !== undefined ? kept[0] : Buffer.concat(kept);
    kept = [all.subarray(count)];
    there.bytes -= count;
    return all.subarray(0, count);
  };
}

/** Takes one option's replies, up to the one that ends them. */
export async function optionReplies(read: (count: number) => Promise<Buffer>): Promise<Reply[]> {
  const replies: Reply[] = [];
  for (;;) {
    const header = await read(20);
    const [reply] = parseReplies(Buffer.concat([header, await read(header.readUInt32BE(16))]));
    if (reply === undefined) throw new Error('no reply');
    replies.push(reply);
    if (reply.type === 1 || reply.type >= 0x80000000) return replies;
  }
}

/** Connects, and goes as far as GO. */
export async function openClient(address: NetConnectOpts, ways: Ways = {}): Promise<NbdClient> {
  const socket = connect(address);
  await once(socket, 'connect');
  const read = byteReader(socket);
  await read(18);
  socket.write(flags(3));
  return negotiated(socket, read, ways);
}

/** Goes on after the client's flags. */
export async function negotiated(
  socket: Socket,
  read: (count: number) => Promise<Buffer>,
  ways: Ways = {},
): Promise<NbdClient> {
  const options = [...(ways.options ?? [])];
  if (ways.extended === true) options.unshift(option(11));
  else if (ways.structured === true) options.unshift(option(8));
  for (const each of options) {
    socket.write(each);
    await optionReplies(read);
  }
  socket.write(option(7, exportChoice(ways.name ?? '')));
  const told = await optionReplies(read);
  const facts = Buffer.from(told[0]?.data ?? []);
  if (told.at(-1)?.type !== 1) throw new Error(`GO is refused: ${told.at(-1)?.type.toString(16)}`);
  const next = async (bytes = 0): Promise<Chunk> => takeChunk(read, bytes);
  const send = (...requests: Request[]): void => {
    socket.write(Buffer.concat(requests.map((each) => encode(each, ways.extended === true))));
  };
  return {
    sizeBytes: Number(facts.readBigUInt64BE(2)),
    transmissionFlags: facts.readUInt16BE(10),
    send,
    next,
    async ask(request) {
      send(request);
      const chunks: Chunk[] = [];
      do chunks.push(await next(request.type === 0 ? Number(request.length ?? 0) : 0));
      while (chunks.at(-1)?.done !== true);
      return chunks;
    },
    bytes: read,
    say: (bytes) => void socket.write(bytes),
    closed: () =>
      read(1).then(
        () => false,
        () => true,
      ),
    [Symbol.dispose]: () => void socket.destroy(),
  };
}

function encode(request: Request, extended: boolean): Buffer {
  const {
    type,
    at = 0,
    length = request.data?.length ?? 0,
    cookie = 0x1122334455667788n,
  } = request;
  const header = Buffer.alloc(extended ? 32 : 28);
  header.writeUInt32BE(extended ? 0x21e41c71 : 0x25609513, 0);
  header.writeUInt16BE(request.flags ?? 0, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(at), 16);
  if (extended) header.writeBigUInt64BE(BigInt(length), 24);
  else header.writeUInt32BE(Number(length), 24);
  return Buffer.concat([header, request.data ?? Buffer.alloc(0)]);
}

async function takeChunk(read: (count: number) => Promise<Buffer>, bytes: number): Promise<Chunk> {
  const magic = (await read(4)).readUInt32BE();
  if (magic === 0x67446698) {
    const header = await read(12);
    const type = header.readUInt32BE(0);
    const payload = type === 0 ? await read(bytes) : Buffer.alloc(0);
    return { kind: 'simple', cookie: header.readBigUInt64BE(4), type, done: true, payload };
  }
  const kind = magic === 0x6e8a278c ? 'extended' : 'structured';
  if (kind === 'structured' && magic !== 0x668e33ef) throw new Error('no reply begins there');
  const header = await read(kind === 'extended' ? 28 : 16);
  const length = kind === 'extended' ? Number(header.readBigUInt64BE(20)) : header.readUInt32BE(12);
  return {
    kind,
    cookie: header.readBigUInt64BE(4),
    type: header.readUInt16BE(2),
    done: (header.readUInt16BE(0) & 1) === 1,
    payload: await read(length),
  };
}
