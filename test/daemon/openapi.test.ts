/** The API's document: what it says is what is answered, as a validator finds that is not ours. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Hono } from 'hono';
import { openApi } from '../../src/daemon/api/openapi.ts';
import { operations } from '../../src/daemon/api/operations.ts';
import { controlApi } from '../../src/daemon/control.ts';
import { createEvents } from '../../src/daemon/events.ts';
import { createLeases } from '../../src/daemon/leases.ts';
import { needs, needsLoop } from '../peers.ts';
import { spec, startTapKit, type TapKit } from './tap-kit.ts';

const checker = join(import.meta.dirname, '..', 'peers', 'answers.py');
/** Debian's own: what another one has is not known. */
const python = '/usr/bin/python3';
const hasValidator = spawnSync(python, ['-c', 'import jsonschema']).status === 0;
const loop = needsLoop();
const options =
  loop.skip === false ? needs(hasValidator, 'no python3-jsonschema — run tools/peers.sh') : loop;

let stack: AsyncDisposableStack;
let kit: TapKit;
let app: Hono;
let raw: string;
before(async () => {
  if (options.skip !== false) return;
  await using opening = new AsyncDisposableStack();
  kit = opening.use(await startTapKit());
  app = controlApi({
    daemon: kit.vbdd,
    leases: opening.use(createLeases(kit.vbdd)),
    events: opening.use(createEvents(kit.vbdd)),
    verbs: { xl: undefined, scriptDir: '/etc/xen/scripts', ownDomid: 0 },
    version: '1.2.3',
    metrics: async () => 'vbdkit_disks 0\n',
    sysfs: '/sys',
    peerOf: () => ({ pid: process.pid, uid: 0, rights: 'admin' }),
  });
  raw = join(kit.host.dir, 'raw.img');
  writeFileSync(raw, '');
  truncateSync(raw, 1 << 20);
  stack = opening.move();
});
after(() => stack?.disposeAsync());

interface Answer {
  readonly path: string;
  readonly method: string;
  readonly status: number;
  readonly type: string | null;
  readonly value: unknown;
}

async function ask(operation: string, at = '', body?: object): Promise<Answer> {
  const [method = '', path = ''] = operation.split(' ');
  const text = body === undefined ? null : JSON.stringify(body);
  const response = await app.request(at === '' ? path : at, { method, body: text });
  const type = response.headers.get('content-type');
  const said = type === 'application/x-ndjson' ? await firstLine(response) : await response.text();
  const value: unknown = said === '' ? null : JSON.parse(said);
  return { path, method: method.toLowerCase(), status: response.status, type, value };
}

async function firstLine({ body }: Response): Promise<string> {
  const reader = body?.getReader();
  const read = await reader?.read();
  await reader?.cancel();
  return new TextDecoder().decode(read?.value).split('\n')[0] ?? '';
}

function faultsOf(answers: readonly Answer[]): string {
  const input = JSON.stringify({ document: openApi(), answers });
  return execFileSync(python, [checker], { input, encoding: 'utf8' });
}

test('every operation answers what the document says of it', options, async () => {
  const guest = await kit.host.createGuest({ name: 'web' });
  await guest.attach(spec('vhd', kit.image('web.vhd', 'vhd')));
  const disk = '/v1/disks/{guest}/{vdev}';
  const [xvda, xvdb] = ['/v1/disks/web/xvda', '/v1/disks/web/xvdb'];
  const attached = { guest: 'web', spec: [`${raw},raw,xvdb,rw`] };
  const asks: Parameters<typeof ask>[] = [
    ['GET /v1/status'],
    ['POST /v1/dry-run', '', attached],
    ['POST /v1/disks', '', attached],
    ['GET /v1/disks'],
    [`GET ${disk}`, xvda],
    [`GET ${disk}/why`, xvda],
    [`GET ${disk}/why`, xvdb],
    [`GET ${disk}/stat`, xvda],
    [`GET ${disk}/stat`, xvdb],
    ['GET /v1/traffic'],
    ['GET /v1/load'],
    [`GET ${disk}/users`, xvda],
    [`GET ${disk}/map`, xvda],
    [`GET ${disk}/map`, xvdb],
    [`PUT ${disk}/limits`, `${xvda}/limits`, { iops: 1000 }],
    [`PUT ${disk}/paused`, `${xvda}/paused`, { paused: true }],
    [`PUT ${disk}/paused`, `${xvda}/paused`, { paused: false }],
    [`PUT ${disk}/medium`, `${xvda}/medium`, {}],
    [`POST ${disk}/resize`, `${xvdb}/resize`, { size: 2 << 20 }],
    ['GET /v1/users', `/v1/users?path=${raw}`],
    ['GET /v1/events'],
    [`DELETE ${disk}`, `${xvdb}?force=1`],
    ['POST /v1/loops', '', { path: raw }],
    ['GET /v1/loops'],
    ['DELETE /v1/loops/{number}', '/v1/loops/4711'],
    ['GET /v1/users'],
    ['POST /v1/disks', '', { guest: 'web', spec: [], other: 1 }],
  ];
  const answers: Answer[] = [];
  for (const [operation, at = '', body] of asks) {
    const suffix = /(?<=\})\/(?:why|stat|users|map)$/.exec(operation)?.[0] ?? '';
    answers.push(await ask(operation, at === '' ? '' : `${at}${suffix}`, body));
  }
  const asked = new Set(answers.map(({ method, path }) => `${method.toUpperCase()} ${path}`));
  assert.deepEqual([...asked].toSorted(), Object.keys(operations).toSorted());
  const failed = answers.filter(({ status }) => status >= 400).map(({ status }) => status);
  assert.deepEqual(failed, [501, 404, 400, 400]);
  assert.equal(faultsOf(answers), '');
  const [first] = answers;
  assert.ok(first);
  const undocumented = { ...first, value: { ...(first.value as object), colour: 'red' } };
  assert.match(faultsOf([undocumented]), /^get \/v1\/status 200: \$: .*'colour' was unexpected/);
});

test('the document that is served is docs/openapi.json', options, async (context) => {
  const served = await (await app.request('/openapi.json')).text();
  // node --test-update-snapshots writes it anew.
  const path = join(import.meta.dirname, '..', '..', 'docs', 'openapi.json');
  context.assert.fileSnapshot(served, path, {
    serializers: [(value: string) => `${JSON.stringify(JSON.parse(value), null, 2)}\n`],
  });
});
