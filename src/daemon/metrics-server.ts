/** Metrics by TCP, for a Prometheus of this host that cannot ask a unix socket. */
import { sentenceOf } from '../base/failure.ts';
import { isAskedByName, listenLocally } from './local-port.ts';
import { METRICS_TYPE } from './metrics-text.ts';

const MOST_CONNECTIONS = 16;

/**
 * Answers `GET /metrics`, and nothing else, to whoever of this host asks.
 * @param address `127.0.0.1:9547`, `[::1]:9547`
 * @throws Failure unavailable
 */
export function serveMetrics(
  address: string,
  metrics: () => Promise<string>,
): Promise<AsyncDisposable> {
  const where = { address, namedBy: 'metrics_listen', mostConnections: MOST_CONNECTIONS };
  return listenLocally(where, (request, response) => {
    if (!isAskedByName(request)) {
      response
        .writeHead(403)
        .end('metrics are had as localhost or by its address, by no other name\n');
      return;
    }
    if (request.method !== 'GET' || request.url !== '/metrics') {
      response.writeHead(404).end('there is GET /metrics, and nothing else\n');
      return;
    }
    metrics().then(
      (text) => response.writeHead(200, { 'content-type': METRICS_TYPE }).end(text),
      (thrown: unknown) => response.writeHead(500).end(`${sentenceOf(thrown)}\n`),
    );
  });
}
