/** `vbd serve` as a program: its addresses, its end, what it refuses; TLS. */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import { byteReader, negotiated, openClient, optionReplies } from './client.ts';
import { needsProgram } from '../peers.ts';
import { testFolder, type TestFolder } from './served.ts';
import { flags, option } from './wire-text.ts';

const vbd = join(import.meta.dirname, '../../bin/vbd');

function disk(folder: TestFolder, name = 'disk.raw', sizeBytes = 2 ** 20): string {
  const path = folder.file(name);
  writeFileSync(path, name);
  truncateSync(path, sizeBytes);
  return path;
}

/** A server that has told its address; `end` sends it a signal and answers its exit code. */
async function start(...args: string[]): Promise<{
  uri: string;
  end(signal?: NodeJS.Signals): Promise<number | null>;
  [Symbol.asyncDispose](): Promise<void>;
}> {
  const child = spawn(vbd, ['serve', ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(child, 'exit') as Promise<[number | null]>;
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const end = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> => {
    if (child.exitCode === null) child.kill(signal);
    return (await exit)[0];
  };
  return {
    uri: line.toString().trim(),
    end,
    [Symbol.asyncDispose]: async () => void (await end()),
  };
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} ends a server with what was written on disk and its socket gone`, async () => {
    using folder = testFolder();
    const path = disk(folder);
    const socket = folder.file('s');
    await using server = await start('--format', 'raw', '--socket', socket, path);
    assert.equal(server.uri, `nbd+unix:///?socket=${socket}`);
    using client = await openClient({ path: socket });
    assert.equal((await client.ask({ type: 1, at: 4096, data: Buffer.from('kept') }))[0]?.type, 0);
    assert.equal(await server.end(signal), 0);
    assert.equal(await client.closed(), true);
    assert.equal(readFileSync(path).toString('latin1', 4096, 4100), 'kept');
    assert.equal(existsSync(socket), false);
  });
}

test('a client that takes no replies does not keep a server from ending', async () => {
  using folder = testFolder();
  const socket = folder.file('s');
  await using server = await start('-f', 'raw', '--socket', socket, disk(folder, 'd', 2 ** 26));
  const client = connect({ path: socket });
  await once(client, 'connect');
  const read = byteReader(client);
  await read(18);
  client.write(flags(3));
  using deaf = await negotiated(client, read);
  client.pause();
  for (let index = 0; index < 50; index += 1) deaf.send({ type: 0, length: 2 ** 25 });
  assert.equal(await server.end(), 0);
});

test('a command is run with the address, and its exit code is the end', () => {
  using folder = testFolder();
  const path = disk(folder);
  const out = folder.file('out');
  const run = (command: string, ...more: string[]) =>
    spawnSync(vbd, ['serve', '-r', ...more, path, '--run', command], { encoding: 'utf8' });
  const told = run(`printf '%s\\n' "$uri" "$unixsocket" > ${out}; test -S "$unixsocket"; exit 7`);
  assert.deepEqual([told.status, told.stderr, told.stdout], [7, '', '']);
  const [uri, socket] = readFileSync(out, 'utf8').split('\n');
  assert.equal(uri, `nbd+unix:///?socket=${socket}`);
  assert.equal(existsSync(socket ?? ''), false);
  assert.equal(run('kill -9 $$').status, 137);
  assert.equal(run('test -S own', '--socket', folder.file('own')).status, 1);
});

const refusals: [string, RegExp, number, (folder: TestFolder) => string[]][] = [
  ['an image that is not there', /missing/, 1, (f) => ['-r', f.file('missing')]],
  [
    'two addresses',
    /one address/,
    2,
    (f) => ['-r', disk(f), '--tcp', '127.0.0.1:0', '--socket', 'x'],
  ],
  ['TCP beyond loopback in the clear', /--tls/, 1, (f) => ['-r', disk(f), '--tcp', '0.0.0.0:0']],
  [
    'TCP beyond loopback in the clear, by its IPv6 name',
    /--tls/,
    1,
    (f) => ['-r', disk(f), '--tcp', '[::]:0'],
  ],
  ['an address that is none', /HOST:PORT/, 2, (f) => ['-r', disk(f), '--tcp', '127.0.0.1']],
  [
    'a folder without certificates',
    /server-cert\.pem is not there/,
    1,
    (f) => ['-r', disk(f), '--tcp', '127.0.0.1:0', '--tls', f.path],
  ],
  [
    'a socket in no folder',
    /does not exist/,
    1,
    (f) => ['-r', disk(f), '--socket', f.file('no/s')],
  ],
  [
    'a socket path that is too long',
    /too long/,
    2,
    (f) => ['-r', disk(f), '--socket', f.file('n'.repeat(120))],
  ],
  ['a socket without a path', /needs a path/, 2, (f) => ['-r', disk(f), '--socket', '']],
  ['two images of one name', /two images are called/, 2, (f) => ['-r', disk(f), disk(f)]],
  [
    'a file in the place of the socket',
    /in use/,
    1,
    (f) => ['-r', disk(f), '--socket', disk(f, 'file')],
  ],
];

for (const [name, sentence, code, args] of refusals) {
  test(`refused with one sentence: ${name}`, () => {
    using folder = testFolder();
    const { status, stderr, stdout } = spawnSync(vbd, ['serve', ...args(folder)], {
      encoding: 'utf8',
    });
    assert.match(stderr, sentence);
    assert.equal(stderr.trim().split('\n').length, 1, stderr);
    assert.deepEqual([status, stdout], [code, '']);
  });
}

test('a socket that a killed server left is taken over, one that is served is not', async () => {
  using folder = testFolder();
  const path = disk(folder);
  const socket = folder.file('s');
  await using killed = await start('-r', '--socket', socket, path);
  const second = spawnSync(vbd, ['serve', '-r', '--socket', socket, path], { encoding: 'utf8' });
  assert.match(second.stderr, /in use/);
  await killed.end('SIGKILL');
  assert.ok(existsSync(socket));
  await using next = await start('-r', '--socket', socket, path);
  using client = await openClient({ path: socket });
  assert.equal(client.sizeBytes, 2 ** 20);
  assert.equal(await next.end(), 0);
});

test(
  'a disk whose format is not named is for reading only, and that is said',
  needsProgram('nbdinfo'),
  () => {
    using folder = testFolder();
    const args = [
      'serve',
      disk(folder),
      '--run',
      'nbdinfo --can connect "$uri"; nbdinfo --is read-only "$uri"',
    ];
    const { status, stderr } = spawnSync(vbd, args, { encoding: 'utf8' });
    assert.match(stderr, /name the --format to write/);
    assert.equal(status, 0);
  },
);

test('a port of loopback is served without TLS', async () => {
  using folder = testFolder();
  await using server = await start('-r', '--tcp', 'localhost:0', disk(folder));
  const { hostname, port } = new URL(server.uri.replace('nbd:', 'http:'));
  using client = await openClient({ host: hostname.replace(/[[\]]/g, ''), port: Number(port) });
  const [reply] = await client.ask({ type: 0, length: 8 });
  assert.equal(reply?.payload.toString(), 'disk.raw');
});

/** Certificates of an authority, a server and a client, and a client that nobody signed. */
function certificates(folder: TestFolder): void {
  const openssl = (...args: string[]) =>
    execFileSync('openssl', args, { cwd: folder.path, stdio: 'pipe' });
  const made = (name: string, ...more: string[]) =>
    openssl(
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
      '-keyout',
      `${name}-key.pem`,
      '-out',
      `${name}-cert.pem`,
      ...more,
    );
  made('ca');
  made(
    'server',
    '-CA',
    'ca-cert.pem',
    '-CAkey',
    'ca-key.pem',
    '-addext',
    'subjectAltName=DNS:localhost,IP:127.0.0.1',
  );
  made('client', '-CA', 'ca-cert.pem', '-CAkey', 'ca-key.pem');
  made('stranger');
}

/** Goes as far as the encrypted socket. */
async function startTls(uri: string, folder: TestFolder, client?: string): Promise<Socket> {
  const { hostname, port } = new URL(uri.replace('nbds:', 'http:'));
  const socket = connect({ host: hostname, port: Number(port) });
  const read = byteReader(socket);
  await read(18);
  socket.write(Buffer.concat([flags(3), option(3), option(5)]));
  assert.deepEqual(
    (await optionReplies(read)).map(({ type }) => type),
    [0x80000005],
  );
  assert.deepEqual(
    (await optionReplies(read)).map(({ type }) => type),
    [1],
  );
  socket.removeAllListeners('data');
  const pem = (name: string): Buffer => readFileSync(folder.file(`${name}.pem`));
  const secure = connectTls({
    socket,
    ca: pem('ca-cert'),
    servername: 'localhost',
    ...(client === undefined ? {} : { cert: pem(`${client}-cert`), key: pem(`${client}-key`) }),
  });
  await once(secure, 'secureConnect');
  return secure;
}

test(
  'over TLS a client with a signed certificate is served, others are not',
  needsProgram('openssl'),
  async () => {
    using folder = testFolder();
    certificates(folder);
    const path = disk(folder, 'disk.raw', 2 ** 25);
    await using server = await start(
      '-f',
      'raw',
      '--tcp',
      '127.0.0.1:0',
      '--tls',
      folder.path,
      path,
    );
    assert.match(server.uri, /^nbds:/);
    const socket = await startTls(server.uri, folder, 'client');
    using client = await negotiated(socket, byteReader(socket), { structured: true });
    const data = Buffer.alloc(3 * 2 ** 20, 'tls');
    assert.equal((await client.ask({ type: 1, at: 4096, data }))[0]?.type, 0);
    const [reply] = await client.ask({ type: 0, at: 4096, length: data.length });
    assert.ok(reply?.payload.subarray(8).equals(data));
    for (const other of [undefined, 'stranger']) {
      const refused = await startTls(server.uri, folder, other);
      await assert.rejects(negotiated(refused, byteReader(refused)), /closed/);
    }
    assert.equal(await server.end(), 0);
    assert.ok(
      readFileSync(path)
        .subarray(4096, 4096 + data.length)
        .equals(data),
    );
  },
);

test('TLS on a port that is taken is one sentence', needsProgram('openssl'), async () => {
  using folder = testFolder();
  certificates(folder);
  const taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address() as { port: number };
  const child = spawn(vbd, [
    'serve',
    '-r',
    '--tcp',
    `127.0.0.1:${port}`,
    '--tls',
    folder.path,
    disk(folder),
  ]);
  const said = await text(child.stderr);
  taken.close();
  assert.match(said, /^vbd: .* cannot be listened on.*\n$/);
});
