/** docs/api.md: its commands work as they stand there, and answer in the shape that it shows. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { needsLoop, needsProgram } from '../peers.ts';
import { shapeOf } from '../shape.ts';
import { image, type ProcessHost, run, startProcessHost } from './vbdd-process.ts';

const loop = needsLoop();
const options = loop.skip === false ? needsProgram('curl') : loop;
let kit: ProcessHost;
before(async () => {
  if (options.skip !== false) return;
  kit = await startProcessHost();
  await kit.host.createGuest({ name: 'web' });
  await kit.vbd('attach', 'web', `${image(kit, 'web.img')},raw,xvda,rw`);
  for (const name of ['data.img', 'idle.img']) image(kit, name);
});
after(async () => {
  if (options.skip === false) await kit[Symbol.asyncDispose]();
});

test('every command of docs/api.md answers as the page says', options, async () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/api.md'), 'utf8');
  const examples = [...page.matchAll(/^```sh\n(.*?)```(?:\n\n```json\n(.*?)```)?/gms)];
  assert.ok(examples.length >= 10);
  for (const [, command = '', shown] of examples) {
    const here = command
      .replaceAll('/run/vbdkit/vbdd.sock', kit.socket)
      .replaceAll('/srv/', `${kit.dir}/`);
    const { stdout, stderr, code } = await run('/bin/bash', ['-e', '-c', here]);
    assert.deepEqual([code, stderr], [0, ''], command);
    if (shown !== undefined) {
      assert.deepEqual(shapeOf(JSON.parse(stdout)), shapeOf(JSON.parse(shown)), command);
    } else {
      assert.ok(!stdout.includes('"error":{'), stdout);
    }
  }
});
