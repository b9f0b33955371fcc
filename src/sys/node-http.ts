/**
 * Node's HTTP for what has to start soon: importing `node:http` asks it for all its names, one of
 * which takes the whole of Node's fetch along, longer than everything else that a program loads.
 */
const http = process.getBuiltinModule('node:http');

export const { createServer, request } = http;
export const { connect } = process.getBuiltinModule('node:net');
