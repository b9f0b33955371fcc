/** How long a xenstored has been running: it has one thread, and nothing is answered faster. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { peerCredentials } from '../../src/sys/peer.ts';

/** What tells the processor time, in ms, that whoever listens at `socket` has used. */
export async function storeTime(socket: string): Promise<() => number> {
  const connection = connect(socket);
  await once(connection, 'connect');
  const { _handle: handle } = connection as Socket & { _handle: { fd: number } };
  const { pid } = peerCredentials(handle.fd);
  connection.destroy();
  return () => Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
}
