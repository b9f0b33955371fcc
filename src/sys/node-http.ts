/**
 * Node's HTTP for what has to start soon: importing `node:http` asks it for all its names, one of
 * which takes the whole of Node's fetch along, longer than everything else that a program loads.
 */
import type { Server } from 'node:http';

const http = process.getBuiltinModule('node:http');

export const { createServer, request } = http;
export const { connect } = process.getBuiltinModule('node:net');

/** Has a server listen no more and ends its connections; resolves when it has. */
export async function closeServer(server: Server): Promise<void> {
  const closed = Promise.withResolvers<void>();
  server.close(() => closed.resolve());
  server.closeAllConnections();
  await closed.promise;
}
