/** A client of a control API on a unix socket: one request a call, failures rebuilt as they were thrown there. */
import type { Socket } from 'node:net';
import { Failure, type FailureFacts, isFailureKind } from '../base/failure.ts';

/** Who is at the other end, for sentences. */
export interface Server {
  readonly name: string;
  /** What to do when nobody answers. */
  readonly advice: string;
}

export interface Client {
  /** @throws Failure: vbdd's own, or unavailable when nobody answers */
  call<T>(
    method: 'GET' | 'POST' | 'PUT' | 'DELETE',
    path: string,
    body?: object,
    signal?: AbortSignal,
  ): Promise<T>;
  /**
   * A POST whose answer stays open: resolves with its first line; closing ends the request.
   */
  hold<T>(path: string, body: object): Promise<Held<T>>;
  /** A GET whose answer has a line of JSON for each event; returns when the other end is gone. */
  follow<T>(path: string, onLine: (value: T) => void, signal?: AbortSignal): Promise<void>;
}

/** An answer that stays open. */
export interface Held<T> extends Disposable {
  readonly value: T;
  /** Resolves when the other end is gone. */
  readonly ended: Promise<void>;
}

/** A client of the daemon at `socketPath`. */
export function openUnixClient(socketPath: string, server: Server): Client {
  return {
    async call<T>(method: string, path: string, body?: object, signal?: AbortSignal) {
      const answer = await send(socketPath, server, method, path, body, 'whole', signal);
      return answer.value as T;
    },
    async hold<T>(path: string, body: object) {
      const answer = await send(socketPath, server, 'POST', path, body, 'first line');
      const { ended } = answer;
      return { value: answer.value as T, ended, [Symbol.dispose]: () => answer.close() };
    },
    async follow<T>(path: string, onLine: (value: T) => void, signal?: AbortSignal) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const [{ request, connect }, { createInterface }] = await Promise.all([
        import('../sys/node-http.ts'),
        import('node:readline'),
      ]);
      const createConnection = (): Socket => connect(socketPath);
      const headers = { host: server.name };
      const outgoing = request({ createConnection, path, headers, signal });
      outgoing.once('error', (cause) => reject(unreachable(socketPath, server, cause)));
      outgoing.once('response', (incoming) => {
        // Its end in the middle is the other end's end, too.
        incoming.once('error', () => {}).once('close', resolve);
        const status = incoming.statusCode ?? 500;
        const lines = createInterface({ input: incoming }).on('error', () => {});
        lines.on('line', (line) => {
          const value: unknown = JSON.parse(line);
          if (status < 400) onLine(value as T);
          else reject(failureOf(server, value, status));
        });
      });
      outgoing.end();
      return promise;
    },
  };
}

interface Answer {
  readonly value: unknown;
  readonly ended: Promise<void>;
  close(): void;
}

async function send(
  socketPath: string,
  server: Server,
  method: string,
  path: string,
  body: object | undefined,
  until: 'whole' | 'first line',
  signal?: AbortSignal,
): Promise<Answer> {
  // Loading it takes longer than starting Node does; a verb on images has no use for it.
  const { request, connect } = await import('../sys/node-http.ts');
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  // By an agent of Node's it would first be found out whether our name is an address.
  const createConnection = (): Socket => connect(socketPath);
  const outgoing = request(
    { createConnection, method, path, headers: { host: server.name }, signal },
    (incoming) => {
      let text = '';
      const close = (): void => void outgoing.destroy();
      const over = Promise.withResolvers<void>();
      incoming.once('close', () => over.resolve());
      const status = incoming.statusCode ?? 500;
      const finish = (): void => {
        const value: unknown = text === '' ? undefined : JSON.parse(text);
        if (status < 400) resolve({ value, close, ended: over.promise });
        else reject(failureOf(server, value, status));
      };
      incoming.setEncoding('utf8');
      incoming.on('data', (chunk: string) => {
        text += chunk;
        if (until === 'first line' && status < 400 && text.includes('\n')) finish();
      });
      incoming.on('end', finish);
      incoming.on('error', (cause) => reject(unreachable(socketPath, server, cause)));
    },
  );
  outgoing.on('error', (cause) => reject(unreachable(socketPath, server, cause)));
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  return promise;
}

function failureOf({ name }: Server, value: unknown, status: number): Failure {
  const { error } = (value ?? {}) as {
    error?: { kind?: unknown; message?: string; facts?: FailureFacts };
  };
  if (error === undefined || !isFailureKind(error.kind)) {
    return new Failure('io', `${name} answered with status ${status}`);
  }
  return new Failure(error.kind, error.message ?? '', error.facts);
}

function unreachable(socketPath: string, { name, advice }: Server, cause: Error): Failure {
  const code = 'code' in cause ? String(cause.code) : '';
  if (code === 'EACCES') {
    return new Failure('denied', `no permission to ${socketPath} — run as root`, {}, cause);
  }
  return new Failure(
    'unavailable',
    `${name} does not answer at ${socketPath} — ${advice}`,
    {},
    cause,
  );
}
