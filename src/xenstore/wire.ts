/**
 * The xenstore protocol as a pure codec: messages into bytes, and bytes, however they are cut, into
 * messages. Layout and limits: xen/include/public/io/xs_wire.h; forms: docs/misc/xenstore.txt.
 */
import { Failure } from '../base/failure.ts';
import { struct, u32le } from '../base/struct.ts';

export const MessageType = {
  control: 0,
  directory: 1,
  read: 2,
  getPerms: 3,
  watch: 4,
  unwatch: 5,
  transactionStart: 6,
  transactionEnd: 7,
  introduce: 8,
  release: 9,
  getDomainPath: 10,
  write: 11,
  mkdir: 12,
  rm: 13,
  setPerms: 14,
  watchEvent: 15,
  error: 16,
  isDomainIntroduced: 17,
  resume: 18,
  setTarget: 19,
  resetWatches: 21,
  directoryPart: 22,
} as const;

/** What precedes every payload. */
export const Header = struct(16, {
  type: u32le,
  requestId: u32le,
  transactionId: u32le,
  lengthBytes: u32le,
});

/** The longest payload of a request, and of a reply that keeps to the protocol. */
export const PAYLOAD_MAX_BYTES = 4096;

/**
 * The longest reply that a client takes: a xenstored may send its own operator a list longer than
 * the protocol allows.
 */
export const REPLY_MAX_BYTES = 16 * 1024 * 1024;

/** Collects messages into one run of bytes, to be sent as one. */
export interface MessageWriter {
  /** Bytes collected since the last `take`. */
  readonly lengthBytes: number;
  /** Appends a message; text becomes UTF-8, its NULs are those of the payload's form. */
  add(type: number, requestId: number, transactionId: number, payload: string | Uint8Array): void;
  /** The bytes so far, which are the caller's now. */
  take(): Buffer;
}

/** A writer that has nothing to send yet. */
export function createMessageWriter(): MessageWriter {
  let buffer = Buffer.allocUnsafeSlow(2 * PAYLOAD_MAX_BYTES);
  let used = 0;
  const reserve = (wanted: number): void => {
    if (wanted <= buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(wanted, buffer.length * 2));
    buffer.copy(larger, 0, 0, used);
    buffer = larger;
  };
  return {
    get lengthBytes() {
      return used;
    },
    add(type, requestId, transactionId, payload) {
      const mostBytes = typeof payload === 'string' ? payload.length * 3 : payload.length;
      reserve(used + Header.size + mostBytes);
      const at = used + Header.size;
      let lengthBytes = payload.length;
      if (typeof payload === 'string') lengthBytes = buffer.write(payload, at);
      else buffer.set(payload, at);
      buffer.writeUInt32LE(type, used + Header.at.type);
      buffer.writeUInt32LE(requestId, used + Header.at.requestId);
      buffer.writeUInt32LE(transactionId, used + Header.at.transactionId);
      buffer.writeUInt32LE(lengthBytes, used + Header.at.lengthBytes);
      used = at + lengthBytes;
    },
    take() {
      const taken = Buffer.from(buffer.subarray(0, used));
      used = 0;
      return taken;
    },
  };
}

/** A parser keeps this much memory between messages. */
const KEEP_MAX_BYTES = 64 * 1024;

/** `payloadView` is only valid during the call. */
export type OnMessage = (
  type: number,
  requestId: number,
  transactionId: number,
  payloadView: Buffer,
) => void;

export interface MessageParser {
  /**
   * Takes the next bytes of the stream and hands on each message that they complete.
   * @throws Failure corrupt when a header claims more than the limit; the stream is lost then
   */
  feed(chunkView: Uint8Array): void;
}

/**
 * A parser of one stream. What is whole in a chunk is handed on in place; only a message that is
 * cut is kept, in memory that grows with the bytes that came, never by what a header claims.
 */
export function createMessageParser(
  onMessage: OnMessage,
  payloadMaxBytes: number = PAYLOAD_MAX_BYTES,
): MessageParser {
  let held = Buffer.alloc(0);
  let heldBytes = 0;

  /** Size in bytes of the message whose header begins at `at`. */
  const sizeAt = (bytes: Buffer, at: number): number => {
    const lengthBytes = bytes.readUInt32LE(at + Header.at.lengthBytes);
    if (lengthBytes > payloadMaxBytes) {
      throw new Failure(
        'corrupt',
        `a xenstore message claims ${lengthBytes} bytes, ${payloadMaxBytes} are allowed`,
        { lengthBytes },
      );
    }
    return Header.size + lengthBytes;
  };
  const deliver = (bytes: Buffer, at: number, size: number): void => {
    onMessage(
      bytes.readUInt32LE(at + Header.at.type),
      bytes.readUInt32LE(at + Header.at.requestId),
      bytes.readUInt32LE(at + Header.at.transactionId),
      bytes.subarray(at + Header.size, at + size),
    );
  };
  const hold = (bytes: Buffer): void => {
    const wanted = heldBytes + bytes.length;
    if (wanted > held.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(wanted, 2 * held.length, 64));
      held.copy(larger, 0, 0, heldBytes);
      held = larger;
    }
    bytes.copy(held, heldBytes);
    heldBytes = wanted;
  };

  return {
    feed(chunkView) {
      const chunk = Buffer.from(chunkView.buffer, chunkView.byteOffset, chunkView.length);
      let at = 0;
      while (heldBytes > 0 && at < chunk.length) {
        const wanted = heldBytes < Header.size ? Header.size : sizeAt(held, 0);
        const end = Math.min(at + wanted - heldBytes, chunk.length);
        hold(chunk.subarray(at, end));
        at = end;
        if (heldBytes < Header.size || heldBytes < sizeAt(held, 0)) continue;
        const size = heldBytes;
        heldBytes = 0;
        deliver(held, 0, size);
        if (held.length > KEEP_MAX_BYTES) held = Buffer.alloc(0);
      }
      while (at + Header.size <= chunk.length) {
        const size = sizeAt(chunk, at);
        if (at + size > chunk.length) break;
        deliver(chunk, at, size);
        at += size;
      }
      if (at < chunk.length) hold(chunk.subarray(at));
    },
  };
}
