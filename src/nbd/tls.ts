/**
 * NBD over TLS: the handshake up to STARTTLS and the encryption run on Node's own sockets, and the
 * plain bytes go through a socket pair to the server, which knows nothing of it.
 */
import { readFileSync } from 'node:fs';
import { createServer, type AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { Failure } from '../base/failure.ts';
import type { Fd } from '../sys/fd.ts';
import { createSocketPair } from '../sys/peer.ts';
import { exportTable } from './exports.ts';
import { advance, type Handshake, startHandshake } from './handshake.ts';

export interface TlsFiles {
  readonly certificate: Buffer;
  readonly key: Buffer;
  /** Clients must show a certificate that it has signed. */
  readonly clientAuthority?: Buffer | undefined;
}

/**
 * Reads server-cert.pem and server-key.pem and, where it is there, ca-cert.pem of a folder: the
 * names that other NBD programs use.
 * @throws Failure not-found | denied
 */
export function readTlsFiles(folder: string): TlsFiles {
  const read = (name: string): Buffer => {
    try {
      return readFileSync(join(folder, name));
    } catch (thrown) {
      const missing = (thrown as NodeJS.ErrnoException).code === 'ENOENT';
      const kind = missing ? 'not-found' : 'denied';
      const says = missing ? 'is not there' : 'cannot be read';
      throw new Failure(kind, `${join(folder, name)} ${says}`, { folder }, thrown);
    }
  };
  const optional = (name: string): Buffer | undefined => {
    try {
      return read(name);
    } catch (thrown) {
      if (thrown instanceof Failure && thrown.kind === 'not-found') return undefined;
      throw thrown;
    }
  };
  return {
    certificate: read('server-cert.pem'),
    key: read('server-key.pem'),
    clientAuthority: optional('ca-cert.pem'),
  };
}

/** A client has so long to get to the encrypted part. */
const HANDSHAKE_MS = 10_000;

/**
 * Listens for clients that must use TLS. Each is handed over when it does, as the far end of a
 * socket pair where the handshake goes on.
 * @throws Failure invalid | in-use
 */
export async function listenTls(
  host: string,
  port: number,
  files: TlsFiles,
  hand: (client: Fd, noZeroes: boolean) => void,
): Promise<{ port: number; close: () => void }> {
  const open = new Set<Socket>();
  /** Whether a client asked for no zeroes, by where it comes from. */
  const noZeroes = new Map<string, boolean>();
  const secure = createTlsServer({
    cert: files.certificate,
    key: files.key,
    minVersion: 'TLSv1.2',
    ...(files.clientAuthority === undefined
      ? {}
      : { ca: files.clientAuthority, requestCert: true, rejectUnauthorized: true }),
  });
  secure.on('secureConnection', (client) => {
    client.setTimeout(0);
    hand(passThrough(client), noZeroes.get(peerOf(client)) ?? false);
  });
  const server = createServer((client) => {
    const peer = peerOf(client);
    open.add(client);
    client.once('close', () => {
      open.delete(client);
      noZeroes.delete(peer);
    });
    client.on('error', () => client.destroy());
    client.setNoDelay(true);
    client.setTimeout(HANDSHAKE_MS, () => client.destroy());
    negotiate(client, (handshake) => {
      noZeroes.set(peer, handshake.noZeroes);
      secure.emit('connection', client);
    });
  });
  const listening = Promise.withResolvers<void>();
  server.once('error', (thrown: NodeJS.ErrnoException) => {
    const sentence = `${host}:${port} cannot be listened on: ${thrown.code}`;
    listening.reject(new Failure('in-use', sentence, { host, port }, thrown));
  });
  server.listen(port, host, () => listening.resolve());
  await listening.promise;
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      server.close();
      for (const client of open) client.destroy();
    },
  };
}

function peerOf(client: Socket): string {
  return `${client.remoteAddress}:${client.remotePort}`;
}

/** Answers a client in the clear until it starts TLS, which is all that it may do. */
function negotiate(client: Socket, onTls: (handshake: Handshake) => void): void {
  const handshake = startHandshake(exportTable([]), 'required');
  let kept: Buffer = Buffer.alloc(0);
  const answer = (): void => {
    for (const each of handshake.out.splice(0)) client.write(each);
  };
  const onData = (data: Buffer): void => {
    kept = Buffer.concat([kept, data]);
    kept = kept.subarray(advance(handshake, kept));
    answer();
    if (handshake.phase === 'closed') client.end();
    if (handshake.phase !== 'tls') return;
    client.off('data', onData);
    // What came in the clear after STARTTLS could be anybody's.
    if (kept.length > 0) client.destroy();
    else onTls(handshake);
  };
  client.on('data', onData);
  answer();
}

/** Joins the client to a socket pair. @returns its far end, for the server */
function passThrough(client: TLSSocket): Fd {
  const [near, far] = createSocketPair();
  const plain = new Socket({ fd: near.number });
  client.pipe(plain);
  plain.pipe(client);
  client.on('error', () => plain.destroy());
  plain.on('error', () => client.destroy());
  client.once('close', () => plain.destroy());
  plain.once('close', () => client.destroySoon());
  return far;
}
