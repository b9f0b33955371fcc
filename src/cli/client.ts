/** The control API of vbdd, for verbs. */
import { type Client, openUnixClient } from '../tap/unix-client.ts';

export type { Client };

export const DEFAULT_SOCKET = '/run/vbdkit/vbdd.sock';

/** A client of the vbdd at `socketPath`. */
export function openClient(socketPath: string): Client {
  const advice = 'start it, or name its socket with VBDKIT_SOCKET';
  return openUnixClient(socketPath, { name: 'vbdd', advice });
}
