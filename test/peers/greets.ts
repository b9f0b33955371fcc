/** Whether an NBD server is there for its clients: some listen before they have opened their image. */
import { once } from 'node:events';
import { connect } from 'node:net';

/** @param path of a Unix socket */
export async function greets(socket: string): Promise<boolean> {
  const connection = connect(socket);
  try {
    const closed = once(connection, 'close').then(() => false);
    return await Promise.race([once(connection, 'data').then(() => true), closed]);
  } catch {
    return false;
  } finally {
    connection.destroy();
  }
}
