/** `npm run bench -- cli` in its smallest configuration: that its parts work, not how fast. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needsLoop } from '../peers.ts';

const program = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');

test(
  'the cli bench has vbdd answer each verb, and ends with one line of figures',
  needsLoop(),
  async () => {
    const run = await promisify(execFile)(process.execPath, [program, 'cli', '--quick']);
    const { bench, ...figures } = JSON.parse(run.stdout.trimEnd().split('\n').at(-1) ?? '');
    assert.equal(bench, 'cli');
    const names = ['node_ms', 'list_ms', 'list_json_ms', 'why_ms', 'stat_ms', 'list_over_node'];
    assert.deepEqual(Object.keys(figures), names);
    for (const figure of Object.values(figures)) assert.ok(Number(figure) > 0, run.stdout);
  },
);
