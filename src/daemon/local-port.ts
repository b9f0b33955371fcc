/** A TCP port of this host itself, for those who cannot ask a unix socket. */
import type { IncomingMessage, RequestListener } from 'node:http';
import { Failure } from '../base/failure.ts';
import { closeServer, createServer } from '../sys/node-http.ts';

export interface LocalPort extends AsyncDisposable {
  /** Which it is, where any would do. */
  readonly port: number;
}

export interface PortOptions {
  /** `127.0.0.1:9547`, `[::1]:9547`. */
  readonly address: string;
  /** The configuration's key that named it. */
  readonly namedBy: string;
  /** Connections at a time: who may reach the port cannot use up vbdd's descriptors. */
  readonly mostConnections: number;
}

/**
 * Listens there until it is disposed.
 * @throws Failure unavailable
 */
export async function listenLocally(
  { address, namedBy, mostConnections }: PortOptions,
  listener: RequestListener,
): Promise<LocalPort> {
  const server = createServer(listener);
  server.maxConnections = mostConnections;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  const colon = address.lastIndexOf(':');
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  server.listen(Number(address.slice(colon + 1)), host, resolve);
  try {
    await promise;
  } catch (thrown) {
    const why = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown';
    const sentence = `cannot listen at ${address} (${why}) — check ${namedBy}, and what the unit allows`;
    throw new Failure('unavailable', sentence, {}, thrown);
  }
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0;
  return { port, [Symbol.asyncDispose]: () => closeServer(server) };
}

/** The host's name in a request, without the port. */
export function nameAskedBy({ headers: { host = '' } }: IncomingMessage): string {
  return host.toLowerCase().replace(/:\d+$/, '');
}

const ownNames = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/**
 * Whether it is asked for by a name of this host itself, or by one of `others`. Any other name that
 * leads here is a stranger's, whose site would have the answer as its own.
 */
export function isAskedByName(request: IncomingMessage, others: readonly string[] = []): boolean {
  const name = nameAskedBy(request);
  return ownNames.test(name) || others.some((each) => each.toLowerCase() === name);
}
