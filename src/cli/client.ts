/** The control API's client: one request a call, failures rebuilt as they were thrown in vbdd. */
import { Failure, type FailureFacts, isFailureKind } from '../base/failure.ts';

export const DEFAULT_SOCKET = '/run/vbdkit/vbdd.sock';

export interface Client {
  /** @throws Failure: vbdd's own, or unavailable when nobody answers */
  call<T>(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: object): Promise<T>;
  /**
   * A POST whose answer stays open: resolves with its first line; closing ends the request.
   */
  hold<T>(path: string, body: object): Promise<{ value: T } & Disposable>;
}

/** A client of the vbdd at `socketPath`. */
export function openClient(socketPath: string): Client {
  return {
    async call<T>(method: string, path: string, body?: object) {
      const answer = await send(socketPath, method, path, body, 'whole');
      return answer.value as T;
    },
    async hold<T>(path: string, body: object) {
      const answer = await send(socketPath, 'POST', path, body, 'first line');
      return { value: answer.value as T, [Symbol.dispose]: () => answer.close() };
    },
  };
}

interface Answer {
  readonly value: unknown;
  close(): void;
}

async function send(
  socketPath: string,
  method: string,
  path: string,
  body: object | undefined,
  until: 'whole' | 'first line',
): Promise<Answer> {
  // Loading it takes longer than starting Node does; a verb on images has no use for it.
  const { request } = await import('node:http');
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const outgoing = request({ socketPath, method, path, headers: { host: 'vbdd' } }, (incoming) => {
    let text = '';
    const close = (): void => void outgoing.destroy();
    const status = incoming.statusCode ?? 500;
    const finish = (): void => {
      const value: unknown = text === '' ? undefined : JSON.parse(text);
      if (status < 400) resolve({ value, close });
      else reject(failureOf(value, status));
    };
    incoming.setEncoding('utf8');
    incoming.on('data', (chunk: string) => {
      text += chunk;
      if (until === 'first line' && status < 400 && text.includes('\n')) finish();
    });
    incoming.on('end', finish);
    incoming.on('error', reject);
  });
  outgoing.on('error', (cause) => reject(unreachable(socketPath, cause)));
  outgoing.end(body === undefined ? undefined : JSON.stringify(body));
  return promise;
}

function failureOf(value: unknown, status: number): Failure {
  const { error } = (value ?? {}) as {
    error?: { kind?: unknown; message?: string; facts?: FailureFacts };
  };
  if (error === undefined || !isFailureKind(error.kind)) {
    return new Failure('io', `vbdd answered with status ${status}`);
  }
  return new Failure(error.kind, error.message ?? '', error.facts);
}

function unreachable(socketPath: string, cause: Error): Failure {
  const code = 'code' in cause ? String(cause.code) : '';
  if (code === 'EACCES') {
    return new Failure('denied', `no permission to ${socketPath} — run as root`, {}, cause);
  }
  const advice = 'start it, or name its socket with VBDKIT_SOCKET';
  return new Failure('unavailable', `vbdd does not answer at ${socketPath} — ${advice}`, {}, cause);
}
