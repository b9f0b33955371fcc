/** QEMU's monitor protocol: one command at a time, JSON lines on a unix socket. */
import { createConnection } from 'node:net';
import { createInterface } from 'node:readline';
import { within } from '../src/base/deadline.ts';
import { Failure } from '../src/base/failure.ts';

/**
 * Carries out one command, `quit` or `system_reset`, and waits until QEMU has taken it.
 * @throws Failure io, timeout
 */
export async function qmp(path: string, command: string): Promise<void> {
  const socket = createConnection(path);
  const ended = Promise.withResolvers<void>();
  const send = (execute: string): void => void socket.write(`${JSON.stringify({ execute })}\n`);
  let taken = 0;
  socket
    .on('error', (thrown) => ended.reject(new Failure('io', thrown.message)))
    .on('close', () => ended.resolve());
  createInterface({ input: socket }).on('line', (line) => {
    const message = JSON.parse(line) as { QMP?: object; return?: object; error?: { desc: string } };
    if (message.QMP !== undefined) send('qmp_capabilities');
    if (message.error !== undefined) ended.reject(new Failure('io', message.error.desc));
    if (message.return !== undefined && ++taken === 1) send(command);
    if (taken === 2) ended.resolve();
  });
  try {
    await within(10_000, "QEMU's answer", () => ended.promise);
  } finally {
    socket.destroy();
  }
}
