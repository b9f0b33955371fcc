/** `npm run bench -- adopt` in its smallest configuration: that its parts work, not how fast. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needsAdoptPeers } from '../../bench/adopt.ts';

const program = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');

test(
  'the adopt bench has vbdd take disks over, and ends with one line of figures',
  needsAdoptPeers(),
  async () => {
    const run = await promisify(execFile)(process.execPath, [program, 'adopt', '--quick']);
    const { bench, ...figures } = JSON.parse(run.stdout.trimEnd().split('\n').at(-1) ?? '');
    assert.equal(bench, 'adopt');
    const names = ['disks', 'start_ms', 'empty_start_ms', 'ls_ms', 'start_over_ls'];
    assert.deepEqual(Object.keys(figures), names);
    for (const figure of Object.values(figures)) assert.ok(Number(figure) > 0, run.stdout);
  },
);
