/** Serves a program's control API on a unix socket: to its own user and root, and to whom it is told. */
import { accessSync, chmodSync, constants, mkdirSync, unlinkSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { getRequestListener } from '@hono/node-server';
import type { Context, Hono } from 'hono';
import { Failure, sentenceOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { closeServer, createServer } from '../sys/node-http.ts';
import { type PeerCredentials, peerCredentials, peerGroups } from '../sys/peer.ts';

/** What a peer may: change things, look at them, or nothing. */
export type Rights = 'admin' | 'read' | 'none';

/** Who may, beside root and the program's own user. */
export interface Access {
  /** False: the socket's mode keeps all others away. */
  readonly forOthers: boolean;
  rightsOf(uid: number, gids: readonly number[]): Rights;
}

/** Connections of others at a time: they cannot use up the program's descriptors. */
const MOST_OTHERS = 64;

const ownersOnly: Access = { forOthers: false, rightsOf: () => 'none' };

export interface Peer extends PeerCredentials {
  readonly rights: Rights;
}

const peers = new WeakMap<Socket, Peer>();

/** The peer of the connection that brought a request, as the kernel told it. */
export function peerOf(context: Context): Peer {
  const { incoming } = context.env as { incoming: IncomingMessage };
  const peer = peers.get(incoming.socket);
  if (peer === undefined) throw new Error('a request from a connection that was not checked');
  return peer;
}

/**
 * Listens at `path`, taking the place of a socket that nobody answers.
 * @param load gives the API; asked with the first request, not before the program works
 * @param name of the program, for sentences
 * @throws Failure exists when another of its kind answers there; denied
 */
export async function serveControl(
  name: string,
  load: () => Hono | Promise<Hono>,
  path: string,
  log: Log,
  access: Access = ownersOnly,
): Promise<AsyncDisposable> {
  await clearStaleSocket(name, path);
  const listener = listenerOf(name, load);
  const others = new Set<Socket>();
  const server = createServer((request, response) => void listener(request, response));
  server.on('connection', (socket: Socket) => checkPeer(socket, log, access, others));
  await listen(server, path);
  // Others are let in to be told what they may.
  chmodSync(path, access.forOthers ? 0o666 : 0o600);
  return { [Symbol.asyncDispose]: () => closeServer(server) };
}

/** Answers by an API that is loaded with the first request. @param name of the program, for sentences */
export function listenerOf(
  name: string,
  load: () => Hono | Promise<Hono>,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  let loaded: Promise<ReturnType<typeof getRequestListener>> | undefined;
  const loadAll = async (): Promise<ReturnType<typeof getRequestListener>> => {
    const [{ getRequestListener }, app] = await Promise.all([import('@hono/node-server'), load()]);
    return getRequestListener(app.fetch);
  };
  return async (request, response) => {
    loaded ??= loadAll();
    const listener = await loaded.catch((thrown: unknown) => {
      // Without descriptors, or while a package is being replaced: guests' disks go on.
      loaded = undefined;
      const sentence = `${name} cannot load its API (${sentenceOf(thrown)}) — restart it`;
      const failure = new Failure('unavailable', sentence);
      response.writeHead(failure.httpStatus, { 'content-type': 'application/json' });
      response.end(JSON.stringify(failure));
    });
    await listener?.(request, response);
  };
}

function checkPeer(socket: Socket, log: Log, access: Access, others: Set<Socket>): void {
  // Node keeps the accepted descriptor here; there is no other way to ask the kernel who it is.
  const { _handle: handle } = socket as Socket & { _handle: { fd: number } | null };
  const fd = handle?.fd ?? -1;
  const peer = peerCredentials(fd);
  if (peer.uid === 0 || peer.uid === process.getuid?.()) {
    peers.set(socket, { ...peer, rights: 'admin' });
    return;
  }
  if (access.forOthers && others.size < MOST_OTHERS) {
    others.add(socket);
    socket.once('close', () => others.delete(socket));
    const rights = access.rightsOf(peer.uid, [peer.gid, ...peerGroups(fd)]);
    peers.set(socket, { ...peer, rights });
    return;
  }
  log('warning', `refused a connection of uid ${peer.uid} to the control socket`);
  socket.destroy();
}

async function listen(server: Server, path: string): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  const mask = process.umask(0o177);
  server.listen(path, resolve);
  try {
    await promise;
  } catch (thrown) {
    throw new Failure('denied', `cannot listen at ${path} — check --socket`, { path }, thrown);
  } finally {
    process.umask(mask);
  }
}

/**
 * Makes the folder that a program works in, where it is not there yet.
 * @throws Failure denied
 */
export function makeRunFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o755 });
    accessSync(folder, constants.W_OK);
  } catch (thrown) {
    const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : 'unknown';
    const sentence = `${folder} cannot be worked in (${code}) — run as root, or use --socket`;
    throw new Failure('denied', sentence, { path: folder }, thrown);
  }
}

async function clearStaleSocket(name: string, path: string): Promise<void> {
  makeRunFolder(dirname(path));
  if (await isAnswered(path)) {
    throw new Failure('exists', `another ${name} answers at ${path} — stop it, or use --socket`);
  }
  try {
    unlinkSync(path);
  } catch {
    // There was none: fine.
  }
}

function isAnswered(path: string): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const socket = connect(path);
  socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  return promise.finally(() => socket.destroy());
}
