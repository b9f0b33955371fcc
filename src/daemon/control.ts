/** The control API: JSON over HTTP on a unix socket, as its table of operations says. Errors are failures, as JSON. */
import { type Context, Hono } from 'hono';
import { Failure, sentenceOf } from '../base/failure.ts';
import { checkSchema } from '../base/schema.ts';
import type { Rights } from '../tap/control-server.ts';
import {
  type Answer,
  type Asked,
  type Operation,
  operations,
  type OperationShape,
} from './api/operations.ts';
import type { Daemon } from './daemon.ts';
import type { Events } from './events.ts';
import { handlersOf } from './handlers.ts';
import type { Leases } from './leases.ts';
import { METRICS_TYPE } from './metrics-text.ts';
import type { VerbOptions } from './verbs.ts';

/** Who asks. */
export interface Asker {
  /** As the kernel told it; undefined of one who asks by TCP. */
  readonly pid: number | undefined;
  readonly uid: number | undefined;
  readonly rights: Rights;
}

export interface ControlOptions {
  readonly daemon: Daemon;
  readonly leases: Leases;
  readonly events: Pick<Events, 'follow'>;
  readonly verbs: VerbOptions;
  readonly version: string;
  /** What Prometheus is told. */
  readonly metrics: () => Promise<string>;
  /** Where the kernel shows its devices. */
  readonly sysfs: string;
  /** Who is at the other end of a request's connection. */
  readonly peerOf: (context: Context) => Asker;
}

type Answered<O extends Operation> = Answer<O> | Response;

/** What does each operation; a response of its own is sent as it is. */
export type Handlers = {
  readonly [O in Operation]: (
    asked: Asked<O>,
    context: Context,
  ) => Answered<O> | Promise<Answered<O>>;
};

/** The API as a fetch handler; the server gives it requests from checked peers only. */
export function controlApi(options: ControlOptions): Hono {
  const { log } = options.daemon.world;
  const app = new Hono();
  app.use(async (context, next) => {
    requireRights(options.peerOf(context), context.req.method);
    // Hono would do the GET and drop its answer unread: one that listens to events would do so for ever.
    if (context.req.method === 'HEAD') return context.body(null, 405, { allow: 'GET' });
    return next();
  });
  app.get('/openapi.json', async (context) => {
    const { openApi } = await import('./api/openapi.ts');
    return context.json(openApi());
  });
  app.get('/metrics', async (context) =>
    context.body(await options.metrics(), 200, { 'content-type': METRICS_TYPE }),
  );
  const handlers = handlersOf(options);
  for (const operation of Object.keys(operations) as Operation[]) {
    addRoute(app, operation, options.peerOf, handlers[operation] as AnyHandler);
  }
  app.notFound((context) => {
    const what = `${context.req.method} ${context.req.path}`;
    return context.json(new Failure('not-found', `there is no ${what} in this API`), 404);
  });
  app.onError((thrown, context) => {
    if (!(thrown instanceof Failure)) log('error', sentenceOf(thrown));
    const failure = thrown instanceof Failure ? thrown : new Failure('io', sentenceOf(thrown));
    return context.json(failure.toJSON(), failure.httpStatus as 400);
  });
  return app;
}

type AnyHandler = (asked: object, context: Context) => unknown;

function addRoute(
  app: Hono,
  operation: Operation,
  peerOf: ControlOptions['peerOf'],
  handle: AnyHandler,
): void {
  const { query, body, status, admins, page }: OperationShape = operations[operation];
  const [method = '', path = ''] = operation.split(' ');
  const looks = method === 'GET' && admins !== true;
  const route = path.replaceAll(/\{(\w+)\}/g, ':$1');
  app.on(method, route, async (context) => {
    const { req } = context;
    if (!looks) requireAdmin(peerOf(context));
    if (!looks && page !== true) requireSocket(peerOf(context));
    const answer = await handle(
      {
        path: req.param(),
        query: query && checkSchema(query, req.query(), 'the request'),
        body: body && checkSchema(body, await jsonOf(context), 'the request'),
      },
      context,
    );
    if (answer instanceof Response) return answer;
    return status === 204 ? context.body(null, 204) : context.json(answer as object, status);
  });
}

/** @throws Failure denied */
function requireAdmin({ uid, rights }: Asker): void {
  if (rights === 'admin') return;
  refuse(uid, 'may look at disks, and not do that', 'admin_uids or admin_gids');
}

/** @throws Failure denied */
function requireSocket({ uid }: Asker): void {
  if (uid !== undefined) return;
  throw new Failure('denied', 'that is not done by the page — use vbd, or the control socket');
}

/** Who may do nothing is not told, either, what there is. @throws Failure denied */
function requireRights({ uid, rights }: Asker, method: string): void {
  if (rights !== 'none') return;
  const looks = method === 'GET';
  const keys = looks ? 'read_uids or read_gids' : 'admin_uids or admin_gids';
  refuse(uid, 'may not ask vbdd anything', keys);
}

function refuse(uid: number | undefined, may: string, keys: string): never {
  if (uid === undefined) {
    throw new Failure('denied', `who has no token ${may} — see page_token in vbdkit.conf`);
  }
  throw new Failure('denied', `uid ${uid} ${may} — see ${keys} in vbdkit.conf`, { uid });
}

/** @throws Failure invalid */
async function jsonOf({ req }: Context): Promise<unknown> {
  const text = await req.text();
  try {
    return text === '' ? {} : JSON.parse(text);
  } catch (thrown) {
    throw new Failure('invalid', 'the request is not JSON', {}, thrown);
  }
}
