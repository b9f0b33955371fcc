/** The unix socket of a xenstored, which takes whoever may open it for the privileged domain. */
import { createConnection } from 'node:net';
import { Failure } from '../base/failure.ts';
import type { Connect, Transport } from './transport.ts';

/** Where Xen's own tools look: XENSTORED_PATH, then the folder of XENSTORED_RUNDIR, then /run. */
export function socketPath(env: NodeJS.ProcessEnv = process.env): string {
  const folder = env['XENSTORED_RUNDIR'] ?? '/run/xenstored';
  return env['XENSTORED_PATH'] ?? `${folder}/socket`;
}

/** Connects to a xenstored's socket. */
export function socketTransport(path: string): Connect {
  return (events) => {
    const { promise, resolve, reject } = Promise.withResolvers<Transport>();
    const socket = createConnection(path);
    let cause: Error | undefined;
    const refused = (error: Error): void => {
      const sentence = `nothing answers on the xenstore socket ${path} — see whether xenstored runs`;
      reject(new Failure('unavailable', sentence, { path }, error));
    };
    socket.once('error', refused);
    socket.once('connect', () => {
      socket.off('error', refused);
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
  };
}
