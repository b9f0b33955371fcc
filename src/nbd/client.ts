/**
 * The client's side of NBD: the handshake by which an export is chosen on a unix socket, whose
 * connection may then be handed to the kernel, and requests with simple replies for who keeps it.
 */
import { Socket } from 'node:net';
import { within } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import { duplicateFd, type Fd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { connectUnix } from '../sys/socket.ts';
import { byteReader } from './byte-reader.ts';
import {
  HandshakeFlag,
  Info,
  INIT_MAGIC,
  Option,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_BYTES,
  OptionReply,
} from './wire.ts';

/** A connection behind its handshake: requests may be sent, and replies will be simple ones. */
export interface ChosenExport extends Disposable {
  /** Non-blocking. */
  readonly socket: Fd;
  readonly sizeBytes: number;
  /** TransmissionFlag. */
  readonly flags: number;
}

/** Longer than a server that is busy opening an image takes. */
const HANDSHAKE_MS = 30_000;
const GREETING_BYTES = 18;

/**
 * Connects to the server's unix socket and chooses an export; the empty name is the only one.
 * @throws Failure unavailable | not-found | invalid | timeout
 */
export async function chooseExport(path: string, name = ''): Promise<ChosenExport> {
  using opened = new DisposableStack();
  const socket = opened.use(connect(path));
  // Node closes its own descriptor without a word to the server, which says nothing by itself.
  const stream = new Socket({ fd: duplicateFd(socket.number).number });
  try {
    const what = `the NBD server at ${path}`;
    const work = (): Promise<{ sizeBytes: number; flags: number }> =>
      shakeHands(stream, path, name);
    const facts = await within(HANDSHAKE_MS, what, work);
    opened.move();
    return { ...facts, socket, [Symbol.dispose]: () => socket.close() };
  } finally {
    stream.destroy();
  }
}

function connect(path: string): Fd {
  try {
    return connectUnix(path);
  } catch (thrown) {
    if (!isErrno(thrown)) throw thrown;
    const sentence = `no NBD server answers at ${path}: ${thrown.code}`;
    throw new Failure('unavailable', sentence, { path }, thrown);
  }
}

async function shakeHands(
  stream: Socket,
  path: string,
  name: string,
): Promise<{ sizeBytes: number; flags: number }> {
  const read = byteReader(stream, `the NBD server at ${path}`);
  const greeting = await read(GREETING_BYTES);
  const known =
    greeting.readUInt32BE(0) === INIT_MAGIC[0] &&
    greeting.readUInt32BE(4) === INIT_MAGIC[1] &&
    greeting.readUInt32BE(8) === OPTION_MAGIC[0];
  if (!known) throw new Failure('invalid', `what answers at ${path} is no NBD server of today`);
  stream.write(clientGreeting(name));
  let facts: { sizeBytes: number; flags: number } | undefined;
  for (;;) {
    const header = await read(OPTION_REPLY_HEADER_BYTES);
    const type = header.readUInt32BE(12);
    const data = await read(header.readUInt32BE(16));
    if (type === OptionReply.info && data.readUInt16BE(0) === Info.export) {
      facts = { sizeBytes: Number(data.readBigUInt64BE(2)), flags: data.readUInt16BE(10) };
    }
    if (type === OptionReply.ack && facts !== undefined) return facts;
    if (type === OptionReply.info) continue;
    const said = data.length === 0 ? `error ${type.toString(16)}` : data.toString();
    throw new Failure('not-found', `the NBD server at ${path} refuses: ${said}`);
  }
}

/** The client's flags, and GO. */
function clientGreeting(name: string): Buffer {
  const text = Buffer.from(name);
  const bytes = Buffer.alloc(4 + OPTION_HEADER_BYTES + 4 + text.length + 2);
  bytes.writeUInt32BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 0);
  bytes.writeUInt32BE(OPTION_MAGIC[0], 4);
  bytes.writeUInt32BE(OPTION_MAGIC[1], 8);
  bytes.writeUInt32BE(Option.go, 12);
  bytes.writeUInt32BE(4 + text.length + 2, 16);
  bytes.writeUInt32BE(text.length, 20);
  text.copy(bytes, 24);
  return bytes;
}
