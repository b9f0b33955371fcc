/** An NBD session behind its handshake, from the client’s side: many at a time, each answered by a simple reply. */
import { Socket } from 'node:net';
import { duplicateFd, type Fd } from '../sys/fd.ts';
import { byteReader } from './byte-reader.ts';
import { REQUEST_BYTES, REQUEST_MAGIC, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC } from './wire.ts';

export interface ClientRequest {
  /** Command. */
  readonly type: number;
  readonly at: number;
  readonly lengthBytes: number;
  /** Of a write: `lengthBytes` of them. */
  readonly data?: Uint8Array | undefined;
}

export interface NbdSession extends Disposable {
  /** @param onAnswer told the error (NbdError, or 0), and what was read; never, once `ended` */
  send(request: ClientRequest, onAnswer: (error: number, data: Uint8Array) => void): void;
  /** Resolves when the server has hung up or makes no sense. */
  readonly ended: Promise<void>;
}

interface Waiting {
  readonly bytes: number;
  readonly onAnswer: (error: number, data: Uint8Array) => void;
}

/** `socket` stays the caller's. */
export function sessionOn(socket: Fd): NbdSession {
  const stream = new Socket({ fd: duplicateFd(socket.number).number });
  stream.on('error', () => stream.destroy());
  stream.unref();
  const waiting = new Map<bigint, Waiting>();
  let next = 0n;
  const read = byteReader(stream, 'the NBD server');
  const follow = async (): Promise<void> => {
    for (;;) {
      const header = await read(SIMPLE_REPLY_BYTES);
      const cookie = header.readBigUInt64BE(8);
      const asked = waiting.get(cookie);
      if (header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC || asked === undefined) return;
      waiting.delete(cookie);
      const error = header.readUInt32BE(4);
      asked.onAnswer(error, await read(error === 0 ? asked.bytes : 0));
    }
  };
  const ended = follow()
    .catch(() => {})
    .then(() => void stream.destroy());
  return {
    send({ type, at, lengthBytes, data }, onAnswer) {
      const header = Buffer.alloc(REQUEST_BYTES);
      header.writeUInt32BE(REQUEST_MAGIC, 0);
      header.writeUInt16BE(type, 6);
      header.writeBigUInt64BE(next, 8);
      header.writeBigUInt64BE(BigInt(at), 16);
      header.writeUInt32BE(lengthBytes, 24);
      waiting.set(next, { bytes: type === 0 ? lengthBytes : 0, onAnswer });
      next += 1n;
      stream.write(header);
      if (data !== undefined) stream.write(data);
    },
    ended,
    [Symbol.dispose]: () => void stream.destroy(),
  };
}
