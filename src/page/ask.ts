/** Asks vbdd: the operations of its API, with the types of the table that the server is made from. */
import type { Answer, Ask, Operation } from '../daemon/api/operations.ts';

/** May be left out where all of it may. */
type Request<O extends Operation> = object extends Ask<O> ? [request?: Ask<O>] : [request: Ask<O>];

/** Kept in memory only: a page that is opened anew asks for it again. */
let token: string | undefined;

/** From now on goes with every request; undefined: none does. */
export function giveToken(given: string | undefined): void {
  token = given;
}

let onRefused: (sentence: string) => void = () => {};

/** Is told when vbdd takes the token no more; from then on none is given. */
export function whenRefused(listener: (sentence: string) => void): void {
  onRefused = listener;
}

/** One request. @throws Error with vbdd's own sentence */
export async function ask<O extends Operation>(
  operation: O,
  ...[request]: Request<O>
): Promise<Answer<O>> {
  const [method = '', path = ''] = operation.split(' ');
  const { body, ...words }: Loose = request ?? {};
  const answer = await send(method, addressOf(path, words), body);
  return (answer.status === 204 ? undefined : await answer.json()) as Answer<O>;
}

/** Tells of each event until vbdd ends or `signal` gives it up. @throws Error as `ask` */
export async function follow(
  onEvent: (event: Answer<'GET /v1/events'>) => void,
  signal: AbortSignal,
): Promise<void> {
  const { body } = await send('GET', '/v1/events', undefined, signal);
  let rest = '';
  const reader = body?.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) onEvent(JSON.parse(line) as Answer<'GET /v1/events'>);
  }
}

/** A request as any operation may have it. */
interface Loose {
  readonly path?: Readonly<Record<string, string | number>>;
  readonly query?: object;
  readonly body?: object;
}

function addressOf(template: string, { path = {}, query }: Loose): string {
  const filled = template.replaceAll(/\{(\w+)\}/g, (_, name: string) =>
    encodeURIComponent(path[name] ?? ''),
  );
  if (query === undefined) return filled;
  return `${filled}?${new URLSearchParams(Object.entries(query).map(([name, value]) => [name, String(value)])).toString()}`;
}

/** In a request the token; in an answer `refused`, where that was not taken. */
const TOKEN_HEADER = 'vbdkit-token';

async function send(
  method: string,
  address: string,
  body: object | undefined,
  signal?: AbortSignal,
): Promise<Response> {
  const given = token;
  const answer = await fetch(address, {
    method,
    headers: given === undefined ? {} : { [TOKEN_HEADER]: given },
    ...(body && { body: JSON.stringify(body) }),
    ...(signal && { signal }),
  });
  if (answer.ok) return answer;
  const said = (await answer.json().catch(() => undefined)) as
    | { error?: { message?: string } }
    | undefined;
  const sentence = said?.error?.message ?? `vbdd answers ${answer.status}`;
  const isRefused = answer.headers.get(TOKEN_HEADER) === 'refused';
  if (isRefused && given !== undefined && given === token) {
    token = undefined;
    onRefused(sentence);
  }
  throw new Error(sentence);
}
