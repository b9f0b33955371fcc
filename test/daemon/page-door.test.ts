/** The door of the web page: who is let in, what he may, and what browsers are told to keep to. */
import assert from 'node:assert/strict';
import { chmodSync, truncateSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig } from '../../src/daemon/config.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { servePage } from '../../src/daemon/page-door.ts';
import { needsLoop } from '../peers.ts';
import { type PageKit, startPageKit, TOKEN } from '../page/page-kit.ts';
import { spec } from './tap-kit.ts';

const options = needsLoop();
let own: PageKit;
let web: Guest;
before(async () => {
  if (options.skip !== false) return;
  own = await startPageKit();
  web = await own.kit.host.createGuest({ name: 'web' });
  await web.attach(spec('vhd', own.kit.image('web.vhd', 'vhd')));
});
after(() => own?.[Symbol.asyncDispose]());

interface Answer {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly text: string;
}

/** As curl would ask: with these headers and no others. */
async function ask(
  method: string,
  path: string,
  headers: Record<string, string> = {},
  body?: object,
): Promise<Answer> {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const asking = request(`${own.address}${path}`, { method, headers }, (response) => {
    const { statusCode: status = 0, headers: said } = response;
    buffer(response).then(
      (bytes) => resolve({ status, headers: said, text: bytes.toString('utf8') }),
      reject,
    );
  });
  asking.once('error', reject);
  asking.end(body && JSON.stringify(body));
  return promise;
}

const token = { 'vbdkit-token': TOKEN };
const limits = '/v1/disks/web/xvda/limits';

/** Its kind and sentence. */
function failureOf({ text }: Answer): { kind: string; message: string } {
  return (JSON.parse(text) as { error: { kind: string; message: string } }).error;
}

test('who has no token may look and change nothing', options, async () => {
  assert.equal((await ask('GET', '/v1/disks')).status, 200);
  for (const [method, path] of [
    ['PUT', limits],
    ['DELETE', '/v1/disks/web/xvda'],
    ['POST', '/v1/disks'],
    ['GET', '/v1/users?path=/etc/shadow'],
  ] as const) {
    const answer = await ask(method, path, {}, method.startsWith('P') ? {} : undefined);
    assert.equal(answer.status, 403, `${method} ${path}`);
    assert.match(failureOf(answer).message, /^who has no token may look at disks, and not do that/);
  }
  assert.match((await ask('GET', '/v1/status')).text, /"rights":"read"/);
});

test('who has the token may do what the page does, and no more', options, async () => {
  assert.match((await ask('GET', '/v1/status', token)).text, /"rights":"admin"/);
  assert.equal((await ask('PUT', limits, token, { iops: 9 })).status, 204);
  const raw = join(own.kit.host.dir, 'raw.img');
  writeFileSync(raw, '');
  truncateSync(raw, 1 << 20);
  await web.attach(`vdev=xvdb,script=block-vbd,target=${raw}`);
  assert.equal((await ask('DELETE', '/v1/disks/web/xvdb', token)).status, 204);
  const noDrive = await ask('PUT', '/v1/disks/web/xvda/medium', token, { target: raw });
  assert.match(failureOf(noDrive).message, /^xvda of web is no drive/);
  for (const [method, path, body] of [
    ['POST', '/v1/loops', { path: raw }],
    ['POST', '/v1/disks', { guest: 'web', spec: [`${raw},raw,xvdb,rw`] }],
    ['POST', '/v1/disks/web/xvda/resize', { size: 1 << 30 }],
    ['GET', '/v1/users?path=/etc/passwd', undefined],
  ] as const) {
    const answer = await ask(method, path, token, body);
    assert.equal(answer.status, 403, path);
    assert.match(failureOf(answer).message, /^that is not done by the page/);
    assert.equal(answer.headers['vbdkit-token'], undefined);
  }
});

test('a token that is not the right one opens nothing', options, async () => {
  for (const wrong of [`${TOKEN}0`, TOKEN.slice(1), TOKEN.toUpperCase(), 'x']) {
    const answer = await ask('GET', '/v1/disks', { 'vbdkit-token': wrong });
    assert.equal(answer.status, 403);
    assert.match(failureOf(answer).message, /^that is not the admin token/);
    assert.equal(answer.headers['vbdkit-token'], 'refused');
  }
});

test('who tries tokens does not fill the journal', options, async () => {
  const lines: string[] = [];
  const config = { page_listen: '127.0.0.1:0', page_hosts: [], page_token: own.tokenFile };
  await using door = await servePage(
    config,
    () => Promise.reject(new Error('nobody is let in')),
    (level, sentence) => void (level === 'warning' && lines.push(sentence)),
  );
  for (let tries = 0; tries < 5; tries++) {
    const headers = { 'vbdkit-token': `a guess ${tries}` };
    const { status } = await fetch(`http://127.0.0.1:${door.port}/v1/status`, { headers });
    assert.equal(status, 403);
  }
  assert.deepEqual(lines, ['someone gave the page a token that is not the admin’s']);
});

test('a token that others may read is none', options, async () => {
  chmodSync(own.tokenFile, 0o644);
  const answer = await ask('PUT', limits, token, { iops: 9 });
  chmodSync(own.tokenFile, 0o600);
  assert.equal(answer.status, 403);
  assert.match(failureOf(answer).message, /^the token cannot be checked/);
});

test('a new token counts at once, and the old one no more', options, async () => {
  const next = 'another-token-of-some-length';
  writeFileSync(own.tokenFile, next);
  assert.equal((await ask('GET', '/v1/status', token)).status, 403);
  assert.equal((await ask('GET', '/v1/status', { 'vbdkit-token': next })).status, 200);
  writeFileSync(own.tokenFile, TOKEN);
});

test('the page is had by its own names only', options, async () => {
  for (const host of [
    'localhost:1',
    '127.0.0.1',
    '[::1]:80',
    'dom0.example',
    'DOM0.example:8443',
  ]) {
    assert.equal((await ask('GET', '/v1/disks', { host })).status, 200, host);
  }
  for (const host of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example']) {
    for (const path of ['/', '/v1/disks']) {
      const answer = await ask('GET', path, { host });
      assert.equal(answer.status, 403, host);
      assert.match(failureOf(answer).message, /^the page is not to be had as /);
    }
  }
});

test(
  'another site that asks in a browser gets nothing, and may send one here',
  options,
  async () => {
    for (const site of ['cross-site', 'same-site']) {
      const from = { 'sec-fetch-site': site, 'sec-fetch-mode': 'no-cors', ...token };
      assert.equal((await ask('GET', '/v1/disks', from)).status, 403);
      assert.equal((await ask('PUT', limits, from, { iops: 7 })).status, 403);
      const link = { 'sec-fetch-site': site, 'sec-fetch-mode': 'navigate' };
      assert.equal((await ask('GET', '/', link)).status, 200);
    }
    const allowed = (await ask('OPTIONS', limits, { origin: 'http://evil.example' })).headers;
    assert.equal(allowed['access-control-allow-origin'], undefined);
  },
);

test('browsers are told to load nothing from elsewhere, and nothing in line', options, async () => {
  for (const path of ['/', '/page.js', '/v1/disks', '/nothing']) {
    const { headers } = await ask('GET', path);
    const policy = String(headers['content-security-policy']).split('; ');
    assert.ok(policy.includes("default-src 'none'") && policy.includes("script-src 'self'"), path);
    assert.ok(policy.includes("frame-ancestors 'none'"), path);
    assert.doesNotMatch(policy.join(), /unsafe|https?:|\*/);
    assert.equal(headers['x-content-type-options'], 'nosniff');
    assert.equal(headers['set-cookie'], undefined);
  }
});

test('a page that a browser has already is not sent again', options, async () => {
  const { headers, status } = await ask('GET', '/page.js');
  assert.equal(status, 200);
  const again = await ask('GET', '/page.js', { 'if-none-match': String(headers['etag']) });
  assert.deepEqual([again.status, again.text], [304, '']);
  assert.equal((await ask('POST', '/')).status, 405);
  assert.equal((await ask('HEAD', '/')).text, '');
});

test('whoever reaches the port cannot use up the descriptors of vbdd', options, async () => {
  const opened = Array.from({ length: 80 }, () => connect(Number(new URL(own.address).port)));
  for (const each of opened) each.once('error', () => {});
  const isOpen = ({ readyState }: Socket): boolean => readyState !== 'closed';
  const deadline = performance.now() + 10_000;
  while (opened.filter(isOpen).length > 64 && performance.now() < deadline) await sleep(10);
  assert.ok(opened.filter(isOpen).length <= 64);
  for (const each of opened) each.destroy();
});

test('the page is off unless it is turned on, and then its port is of this host itself', () => {
  assert.equal(loadConfig('/dev/null').page_listen, '');
  for (const page_listen of ['127.0.0.1:9548', '127.255.0.10:65535', '[::1]:1']) {
    assert.equal(loadConfig('/dev/null', { page_listen }).page_listen, page_listen);
  }
  for (const page_listen of [
    '0.0.0.0:9548',
    '127.0.0.1:99999',
    '127.999.1.1:80',
    '127.0.0.010:80',
    '127.0.0.1:',
  ]) {
    assert.throws(() => loadConfig('/dev/null', { page_listen }), {
      kind: 'invalid',
      message: /page_listen: is no port of this host itself/,
    });
  }
});
