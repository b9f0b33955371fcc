/** The worker behind xenbus-transport.ts: moves messages between its parent and the device. */
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { isErrno, read, write } from '../sys/ffi.ts';
import { clearEventFd, POLL, pollFds } from '../sys/wait.ts';
import {
  createMessageParser,
  Header,
  MessageType,
  PAYLOAD_MAX_BYTES,
  REPLY_MAX_BYTES,
} from './wire.ts';
import type { FromXenbusWorker, XenbusWorkerData } from './xenbus-transport.ts';

const { device, wake } = workerData as XenbusWorkerData;
const parent = parentOrThrow();

/** The kernel hands out what it has, a message after the other; several fit in here. */
const buffer = Buffer.alloc(16 * (Header.size + PAYLOAD_MAX_BYTES));

const tell = (told: FromXenbusWorker): void => parent.postMessage(told, []);

function parentOrThrow(): MessagePort {
  if (parentPort === null) throw new Error('this module runs as a worker');
  return parentPort;
}

/**
 * Requests not written yet. The kernel (seen with 6.1) sends a request later, and from the buffer
 * into which the next one is written: that waits until the reply says that the request was sent.
 */
const waiting: Buffer[] = [];
let unanswered = false;
const replies = createMessageParser((type) => {
  if (type !== MessageType.watchEvent) unanswered = false;
}, REPLY_MAX_BYTES);

/** The device takes one message a write, and forgets what follows it. */
function enqueue(batch: Buffer): void {
  for (let at = 0; at < batch.length;) {
    const size = Header.size + batch.readUInt32LE(at + Header.at.lengthBytes);
    waiting.push(batch.subarray(at, at + size));
    at += size;
  }
}

function writeNext(): void {
  while (!unanswered) {
    const next = waiting.shift();
    if (next === undefined) return;
    unanswered = true;
    write(device, next, next.length);
  }
}

/** Does what the parent asked for; false when that is to end. */
function takeOrders(): boolean {
  clearEventFd(wake);
  for (;;) {
    const order = receiveMessageOnPort(parent);
    if (order === undefined) return true;
    const message: Uint8Array | 'close' = order.message;
    if (message === 'close') return false;
    enqueue(Buffer.from(message.buffer, message.byteOffset, message.length));
  }
}

function takeReplies(): boolean {
  const got = read(device, buffer, buffer.length);
  if (got === 0) return false;
  const bytes = new Uint8Array(buffer.subarray(0, got));
  replies.feed(bytes);
  tell({ bytes });
  return true;
}

tell({ ready: true });
try {
  for (let going = true; going;) {
    const [fromDevice = 0, fromParent = 0] = pollFds(
      [
        { fd: device, events: POLL.IN },
        { fd: wake, events: POLL.IN },
      ],
      -1,
    );
    // Replies first: events that came before a request was sent are then known before its reply.
    if (fromDevice !== 0) going = takeReplies();
    if (going && fromParent !== 0) going = takeOrders();
    if (going) writeNext();
  }
} catch (thrown) {
  if (!isErrno(thrown)) throw thrown;
  tell({ failed: `the xenbus device failed: ${thrown.message}` });
}
parent.close();
