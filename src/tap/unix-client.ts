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
      return (await ask(socketPath, server, { method, path, body, signal })) as T;
    },
    hold: <T>(path: string, body: object) => hold<T>(socketPath, server, path, body),
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

interface Request {
  readonly method: string;
  readonly path: string;
  readonly body: object | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * One request of HTTP/1.1 (RFC 9112) on a connection of its own, which the other end closes. Node's own
 * client takes a third of the time of a short verb, to load and to ask.
 */
async function ask(
  socketPath: string,
  server: Server,
  { method, path, body, signal }: Request,
): Promise<unknown> {
  const { connect } = process.getBuiltinModule('node:net');
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  const socket = connect({ path: socketPath, ...(signal && { signal }) });
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  socket.on('end', () => resolve(Buffer.concat(chunks)));
  socket.on('error', (cause) => reject(unreachable(socketPath, server, cause)));
  const text = body === undefined ? '' : JSON.stringify(body);
  const head = [
    `${method} ${path} HTTP/1.1`,
    `Host: ${server.name}`,
    'Connection: close',
    `Content-Length: ${Buffer.byteLength(text)}`,
  ];
  socket.write(`${head.join('\r\n')}\r\n\r\n${text}`);
  const answer = wholeAnswer(await promise);
  if (answer === undefined) {
    throw unreachable(socketPath, server, new Error('the answer ends in its middle'));
  }
  const value: unknown = answer.text === '' ? undefined : JSON.parse(answer.text);
  if (answer.status >= 400) throw failureOf(server, value, answer.status);
  return value;
}

/** The status and the text of an answer; undefined of one that is not whole. */
function wholeAnswer(bytes: Buffer): { status: number; text: string } | undefined {
  const headEnds = bytes.indexOf('\r\n\r\n');
  const head = bytes.toString('latin1', 0, Math.max(0, headEnds));
  const [, status] = /^HTTP\/1\.1 (\d{3})/.exec(head) ?? [];
  const [, length] = /^content-length: *(\d+)$/im.exec(head) ?? [];
  const rest = bytes.subarray(headEnds + 4);
  const isChunked = /^transfer-encoding: *chunked$/im.test(head);
  const body = isChunked ? joinChunks(rest) : rest;
  if (status === undefined || body === undefined) return undefined;
  if (!isChunked && body.length !== Number(length ?? 0)) return undefined;
  return { status: Number(status), text: body.toString('utf8') };
}

/** A body that came in pieces, each after a line with its length; undefined when the last is missing. */
function joinChunks(bytes: Buffer): Buffer | undefined {
  const pieces: Buffer[] = [];
  for (let at = 0; ;) {
    const lineEnds = bytes.indexOf('\r\n', at);
    const length = Number.parseInt(bytes.toString('latin1', at, Math.max(at, lineEnds)), 16);
    const from = lineEnds + 2;
    if (lineEnds < 0 || !(from + length + 2 <= bytes.length)) return undefined;
    if (length === 0) return Buffer.concat(pieces);
    pieces.push(bytes.subarray(from, from + length));
    at = from + length + 2;
  }
}

async function hold<T>(
  socketPath: string,
  server: Server,
  path: string,
  body: object,
): Promise<Held<T>> {
  const { request, connect } = await import('../sys/node-http.ts');
  const { promise, resolve, reject } = Promise.withResolvers<Held<T>>();
  // By an agent of Node's it would first be found out whether our name is an address.
  const createConnection = (): Socket => connect(socketPath);
  const headers = { host: server.name };
  const outgoing = request({ createConnection, method: 'POST', path, headers }, (incoming) => {
    let text = '';
    const close = (): void => void outgoing.destroy();
    const over = Promise.withResolvers<void>();
    incoming.once('close', () => over.resolve());
    const status = incoming.statusCode ?? 500;
    const finish = (): void => {
      const value: unknown = text === '' ? undefined : JSON.parse(text);
      if (status >= 400) reject(failureOf(server, value, status));
      else resolve({ value: value as T, ended: over.promise, [Symbol.dispose]: close });
    };
    incoming.setEncoding('utf8');
    incoming.on('data', (chunk: string) => {
      text += chunk;
      if (status < 400 && text.includes('\n')) finish();
    });
    incoming.on('end', finish);
    incoming.on('error', (cause) => reject(unreachable(socketPath, server, cause)));
  });
  outgoing.on('error', (cause) => reject(unreachable(socketPath, server, cause)));
  outgoing.end(JSON.stringify(body));
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
    { socket: socketPath, errno: code },
    cause,
  );
}
