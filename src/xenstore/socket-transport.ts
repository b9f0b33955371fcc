/** The unix socket of a xenstored, which takes whoever may open it for the privileged domain. */
import { createConnection } from 'node:net';
import { sleep } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import type { Connect, Transport, TransportEvents } from './transport.ts';

/** Where Xen's own tools look: XENSTORED_PATH, then the folder of XENSTORED_RUNDIR, then /run. */
export function socketPath(env: NodeJS.ProcessEnv = process.env): string {
  const folder = env['XENSTORED_RUNDIR'] ?? '/run/xenstored';
  return env['XENSTORED_PATH'] ?? `${folder}/socket`;
}

/** How long a xenstored may leave connections waiting: C xenstored's queue holds one. */
const QUEUE_MS = 5000;
const QUEUE_LOOK_MS = 2;

/** Connects to a xenstored's socket; where others are before us in its queue, tries until it has room. */
export function socketTransport(path: string): Connect {
  return async (events) => {
    const deadline = performance.now() + QUEUE_MS;
    for (;;) {
      try {
        return await connect(path, events);
      } catch (thrown) {
        if (isQueueFull(thrown) && performance.now() < deadline) {
          await sleep(QUEUE_LOOK_MS);
          continue;
        }
        const sentence = `nothing answers on the xenstore socket ${path} — see whether xenstored runs`;
        throw new Failure('unavailable', sentence, { path }, thrown);
      }
    }
  };
}

/** unix(7): what a connect that does not block is told while the listener's backlog is full. */
function isQueueFull(thrown: unknown): boolean {
  return thrown instanceof Error && 'code' in thrown && thrown.code === 'EAGAIN';
}

function connect(path: string, events: TransportEvents): Promise<Transport> {
  const { promise, resolve, reject } = Promise.withResolvers<Transport>();
  const socket = createConnection(path);
  let cause: Error | undefined;
  socket.once('error', reject);
  socket.once('connect', () => {
    socket.off('error', reject);
    socket.on('error', (error) => (cause = error));
    socket.on('data', (chunk) => events.onBytes(chunk));
    socket.once('close', () => events.onClose(cause));
    resolve({
      home: '/local/domain/0',
      send: (bytes) => void socket.write(bytes),
      close: () => void socket.destroy(),
    });
  });
  return promise;
}
