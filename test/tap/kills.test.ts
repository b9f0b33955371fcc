/** A few kills of the tap under load; `npm run soak -- --tap-kills N` does as many as one likes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { needsLoop } from '../peers.ts';
import { distribution, killTap } from '../soak/tap-kills.ts';

test('guests whose tap is killed again and again see no error', needsLoop(), async (t) => {
  const { requests, errors, wrong, pausesMs } = await killTap(2, Math.random);
  t.diagnostic(`${requests} requests, pauses in ms: ${JSON.stringify(distribution(pausesMs))}`);
  assert.deepEqual({ errors, wrong }, { errors: [], wrong: 0 });
});
