/** The client of the control APIs: answers that are whole, in every way in which HTTP sends them, and those that are not. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { openUnixClient } from '../../src/tap/unix-client.ts';

const dir = mkdtempSync(join(tmpdir(), 'vbdkit-client-'));
after(() => rmSync(dir, { recursive: true }));
let count = 0;

interface Serving extends AsyncDisposable {
  ask(body?: object): Promise<unknown>;
}

async function serving(server: ReturnType<typeof createServer>): Promise<Serving> {
  const path = join(dir, `${++count}.sock`);
  server.listen(path);
  await once(server, 'listening');
  const client = openUnixClient(path, { name: 'vbdd', advice: 'start it' });
  return {
    ask: (body) => client.call(body === undefined ? 'GET' : 'POST', '/v1/%C3%A9?a=b', body),
    async [Symbol.asyncDispose]() {
      server.close();
      await once(server, 'close');
    },
  };
}

/** Answers by Node's own server. */
const byHttp = (answer: RequestListener): Promise<Serving> => serving(createHttpServer(answer));

/** Answers with these bytes, and closes. */
const byBytes = (answer: string): Promise<Serving> =>
  serving(createServer((socket: Socket) => socket.once('data', () => socket.end(answer))));

const value = { disks: ['«é»', 'x'.repeat(100_000)] };

test('an answer of known length, one in pieces, and one with no body are whole', async () => {
  await using known = await byHttp((_, response) => response.end(JSON.stringify(value)));
  assert.deepEqual(await known.ask(), value);
  await using pieces = await byHttp((_, response) => {
    const text = Buffer.from(JSON.stringify(value));
    // In the middle of a character.
    response.write(text.subarray(0, 13));
    setImmediate(() => response.end(text.subarray(13)));
  });
  assert.deepEqual(await pieces.ask(), value);
  await using none = await byHttp((_, response) => response.writeHead(204).end());
  assert.equal(await none.ask(), undefined);
});

test('what is asked comes whole, and an error comes as it was thrown', async () => {
  await using echo = await byHttp((request, response) => {
    let said = '';
    request.setEncoding('utf8').on('data', (text: string) => (said += text));
    request.on('end', () => {
      const error = { kind: 'in-use', message: 'no', facts: { said, path: request.url } };
      response.writeHead(409).end(JSON.stringify({ error }));
    });
  });
  const said = JSON.stringify(value);
  await assert.rejects(echo.ask(value), {
    kind: 'in-use',
    message: 'no',
    facts: { said, path: '/v1/%C3%A9?a=b' },
  });
});

const head = 'HTTP/1.1 200 OK\r\n';
const broken: Record<string, string> = {
  'nothing at all': '',
  'half a head': 'HTTP/1.1 200 OK\r\ncontent-le',
  'less than its length': `${head}content-length: 9\r\n\r\n{"a":1}`,
  'a piece that ends in its middle': `${head}transfer-encoding: chunked\r\n\r\n9\r\n{"a":1}`,
  'no last piece': `${head}transfer-encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n`,
  'a piece of no length': `${head}transfer-encoding: chunked\r\n\r\nx\r\n{"a":1}\r\n0\r\n\r\n`,
  'another protocol': 'SSH-2.0-OpenSSH_9.2\r\n\r\n',
};
for (const [what, answer] of Object.entries(broken)) {
  test(`${what} is no answer`, async () => {
    await using server = await byBytes(answer);
    await assert.rejects(server.ask(), { kind: 'unavailable', message: /^vbdd does not answer/ });
  });
}
