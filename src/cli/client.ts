/** The control API of vbdd for programs in TypeScript: what is asked and answered is checked by the compiler. */
import { formatMs } from '../base/units.ts';
import type { Answer, Ask, Operation } from '../daemon/api/operations.ts';
import { type Held, openUnixClient } from '../tap/unix-client.ts';

export const DEFAULT_SOCKET = '/run/vbdkit/vbdd.sock';

/** What goes with an operation, and with every one of them a signal that gives it up. */
type Words<O extends Operation> = Ask<O> & { readonly signal?: AbortSignal };
/** May be left out where all of it may. */
type Request<O extends Operation> =
  object extends Words<O> ? [request?: Words<O>] : [request: Words<O>];

export interface Client {
  /** One request. @throws Failure: vbdd's own, or unavailable when nobody answers */
  ask<O extends Operation>(operation: O, ...request: Request<O>): Promise<Answer<O>>;
  /** A loop device that is held until this is disposed, or this process ends. */
  holdLoop(
    body: Omit<Ask<'POST /v1/loops'>['body'], 'hold'>,
  ): Promise<Held<Answer<'POST /v1/loops'>>>;
  /** Tells of each event; returns when vbdd is gone. */
  follow(onEvent: (event: Answer<'GET /v1/events'>) => void, signal?: AbortSignal): Promise<void>;
}

/** A client of the vbdd at `socketPath`. @param tell told of each request, and how it ended */
export function openClient(socketPath: string, tell?: (line: string) => void): Client {
  const advice = 'start it, or name its socket with VBDKIT_SOCKET';
  const client = openUnixClient(socketPath, { name: 'vbdd', advice });
  const timed = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    if (tell === undefined) return work();
    tell(`asks vbdd at ${socketPath}: ${what}`);
    const beganMs = performance.now();
    try {
      return await work();
    } finally {
      tell(`answered after ${formatMs(performance.now() - beganMs)}`);
    }
  };
  return {
    ask<O extends Operation>(operation: O, ...[request]: Request<O>) {
      const words: Loose = request ?? {};
      const [method = '', path = ''] = operation.split(' ');
      const address = addressOf(path, words);
      const { body, signal } = words;
      return timed(`${method} ${address}`, () =>
        client.call<Answer<O>>(method as 'GET', address, body, signal),
      );
    },
    holdLoop: (body) =>
      timed('POST /v1/loops', () => client.hold('/v1/loops', { ...body, hold: 'connection' })),
    follow: (onEvent, signal) =>
      timed('GET /v1/events', () => client.follow('/v1/events', onEvent, signal)),
  };
}

/** A request as any operation may have it. */
interface Loose {
  readonly path?: Readonly<Record<string, string | number>>;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: object;
  readonly signal?: AbortSignal;
}

function addressOf(template: string, { path = {}, query }: Loose): string {
  const filled = template.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(path[name] ?? ''),
  );
  return query === undefined ? filled : `${filled}?${new URLSearchParams(query).toString()}`;
}
