/**
 * The web page by TCP: its files, and the control API for it. The kernel does not say who asks there,
 * so everyone may look, and who has the admin token may do what the page does.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Context, Hono } from 'hono';
import { Failure, sentenceOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { listenerOf } from '../tap/control-server.ts';
import { isAdminToken, readToken } from './admin-token.ts';
import type { Config } from './config.ts';
import type { Asker, ControlOptions } from './control.ts';
import { isAskedByName, listenLocally, nameAskedBy, type LocalPort } from './local-port.ts';
import { type PageFiles, readPageFiles } from './page-files.ts';

/** Gives the API for askers that are told apart like this. */
export type LoadApi = (peerOf: ControlOptions['peerOf']) => Promise<Hono>;

/** A page has six at most, and one of them open for events. */
const MOST_CONNECTIONS = 64;

/** Nothing from elsewhere, nothing in line, and nobody else's frame around it. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
].join('; ');

const headers = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'cache-control': 'no-cache',
};

/** No cookie: a browser adds it to nothing by itself. Not `Authorization`: a proxy may want that. */
const TOKEN_HEADER = 'vbdkit-token';

type PageConfig = Pick<Config, 'page_listen' | 'page_hosts' | 'page_token'>;

/** Answers browsers until it is disposed. @throws Failure unavailable */
export async function servePage(config: PageConfig, load: LoadApi, log: Log): Promise<LocalPort> {
  const askers = new WeakMap<IncomingMessage, Asker>();
  const peerOf = (context: Context): Asker => {
    const { incoming } = context.env as { incoming: IncomingMessage };
    const asker = askers.get(incoming);
    if (asker === undefined) throw new Error('a request that was not checked');
    return asker;
  };
  const api = listenerOf('vbdd', () => load(peerOf));
  const files = loadedOnce(readPageFiles);
  // Apart: a token that somebody tries hides none that cannot be checked.
  const logs = { untaken: seldom(log), unchecked: seldom(log) };
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    requireKnownHost(request, config.page_hosts);
    requireSameSite(request);
    const rights = await rightsOf(request, config.page_token, logs).catch((thrown: unknown) => {
      // What else is denied says nothing against the token.
      response.setHeader(TOKEN_HEADER, 'refused');
      throw thrown;
    });
    const [path = ''] = (request.url ?? '').split('?');
    const file = (await files()).get(path);
    if (file !== undefined) return sendFile(request, response, file);
    askers.set(request, { pid: undefined, uid: undefined, rights });
    await api(request, response);
  };
  const where = { address: config.page_listen, namedBy: 'page_listen' };
  const door = await listenLocally(
    { ...where, mostConnections: MOST_CONNECTIONS },
    (request, response) => {
      answer(request, response).catch((thrown: unknown) => sendFailure(response, thrown, log));
    },
  );
  log('notice', `the page is at http://${config.page_listen.replace(/\d+$/, String(door.port))}/`);
  await tellOfToken(config.page_token, log);
  return door;
}

const SELDOM_MS = 60_000;

/** Once a minute at most: whoever reaches the port, or a page whose token is old, fills no journal. */
function seldom(log: Log): Log {
  let againMs = 0;
  let untold = 0;
  return (level, sentence) => {
    const now = performance.now();
    if (now < againMs) {
      untold += 1;
      return;
    }
    log(level, untold === 0 ? sentence : `${sentence}, and ${untold} more since it was said last`);
    againMs = now + SELDOM_MS;
    untold = 0;
  };
}

/** An admin hears at the start that the token will not do, not when it is wanted. */
async function tellOfToken(path: string, log: Log): Promise<void> {
  if (path === '') return;
  await readToken(path).catch((thrown: unknown) => log('error', sentenceOf(thrown)));
}

/** Tried again by the next one who wants it when it fails. */
function loadedOnce(load: () => Promise<PageFiles>): () => Promise<PageFiles> {
  let loaded: Promise<PageFiles> | undefined;
  return () => {
    loaded ??= load().catch((thrown: unknown) => {
      loaded = undefined;
      throw thrown;
    });
    return loaded;
  };
}

/** @throws Failure denied */
function requireKnownHost(request: IncomingMessage, known: readonly string[]): void {
  if (isAskedByName(request, known)) return;
  const name = JSON.stringify(nameAskedBy(request));
  throw new Failure(
    'denied',
    `the page is not to be had as ${name} — see page_hosts in vbdkit.conf`,
  );
}

/** Browsers say which site a request is from: of others nothing is answered but the page itself. */
function requireSameSite({ headers: said, method, url }: IncomingMessage): void {
  const site = said['sec-fetch-site'];
  if (site === undefined || site === 'same-origin' || site === 'none') return;
  if (method === 'GET' && url === '/' && said['sec-fetch-mode'] === 'navigate') return;
  throw new Failure('denied', 'another site asks for the page — open it by itself');
}

/** A token that is not the right one is not taken for none. @throws Failure denied */
async function rightsOf(
  { headers: { [TOKEN_HEADER]: given } }: IncomingMessage,
  tokenPath: string,
  logs: { readonly untaken: Log; readonly unchecked: Log },
): Promise<Asker['rights']> {
  if (given === undefined) return 'read';
  try {
    if (tokenPath !== '' && (await isAdminToken(tokenPath, String(given)))) return 'admin';
  } catch (thrown) {
    logs.unchecked('error', sentenceOf(thrown));
    throw new Failure('denied', 'the token cannot be checked — see the journal of vbdd');
  }
  logs.untaken('warning', 'someone gave the page a token that is not the admin’s');
  throw new Failure('denied', 'that is not the admin token — see page_token in vbdkit.conf');
}

type File = NonNullable<ReturnType<PageFiles['get']>>;

function sendFile(
  { method, headers: { 'if-none-match': known } }: IncomingMessage,
  response: ServerResponse,
  { type, bytes, tag }: File,
): void {
  if (method !== 'GET' && method !== 'HEAD') {
    response.writeHead(405, { allow: 'GET, HEAD' }).end();
    return;
  }
  response.setHeader('etag', tag);
  if (known === tag) {
    response.writeHead(304).end();
    return;
  }
  response.writeHead(200, { 'content-type': type, 'content-length': bytes.length });
  response.end(method === 'HEAD' ? undefined : bytes);
}

function sendFailure(response: ServerResponse, thrown: unknown, log: Log): void {
  if (!(thrown instanceof Failure)) log('error', sentenceOf(thrown));
  const failure = thrown instanceof Failure ? thrown : new Failure('io', sentenceOf(thrown));
  if (response.headersSent) {
    response.destroy();
    return;
  }
  response.writeHead(failure.httpStatus, { 'content-type': 'application/json' });
  response.end(JSON.stringify(failure));
}
