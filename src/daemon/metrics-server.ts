/** Metrics by TCP, for a Prometheus of this host that cannot ask a unix socket. */
import { Failure, sentenceOf } from '../base/failure.ts';
import { closeServer, createServer } from '../sys/node-http.ts';
import { METRICS_TYPE } from './metrics-text.ts';

/** Connections at a time: who may reach the port cannot use up vbdd's descriptors. */
const MOST_CONNECTIONS = 16;

/**
 * Answers `GET /metrics`, and nothing else, to whoever asks.
 * @param address `127.0.0.1:9547`, `[::1]:9547`
 * @throws Failure unavailable
 */
export async function serveMetrics(
  address: string,
  metrics: () => Promise<string>,
): Promise<AsyncDisposable> {
  const server = createServer((request, response) => {
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end('there is GET /metrics, and nothing else\n');
      return;
    }
    metrics().then(
      (text) => response.writeHead(200, { 'content-type': METRICS_TYPE }).end(text),
      (thrown: unknown) => response.writeHead(500).end(`${sentenceOf(thrown)}\n`),
    );
  });
  server.maxConnections = MOST_CONNECTIONS;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  const colon = address.lastIndexOf(':');
  const host = address.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  server.listen(Number(address.slice(colon + 1)), host, resolve);
  try {
    await promise;
  } catch (thrown) {
    const why = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown';
    const sentence = `cannot listen at ${address} (${why}) — check metrics_listen, and what the unit allows`;
    throw new Failure('unavailable', sentence, {}, thrown);
  }
  return { [Symbol.asyncDispose]: () => closeServer(server) };
}
