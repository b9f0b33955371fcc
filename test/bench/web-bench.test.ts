/** `npm run bench -- web` in its smallest configuration: that its parts work, not how fast. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { needsChromium } from '../page/page-kit.ts';

const program = join(import.meta.dirname, '..', '..', 'bench', 'main.ts');

test(
  'the web bench reads Chromium’s trace, and ends with one line of figures',
  needsChromium(),
  async () => {
    const run = await promisify(execFile)(process.execPath, [program, 'web', '--quick']);
    const { bench, ...figures } = JSON.parse(run.stdout.trimEnd().split('\n').at(-1) ?? '');
    assert.equal(bench, 'web');
    const names = ['update_ms', 'second_ms', 'rendering_ms'].map(
      (each) => `${each}_20_disks_2_events`,
    );
    assert.deepEqual(Object.keys(figures), ['page_bytes', ...names]);
    for (const figure of Object.values(figures)) assert.ok(Number(figure) > 0, run.stdout);
  },
);
