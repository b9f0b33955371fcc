/** The queue that lets work in one at a time. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { turnQueue } from '../../src/daemon/turns.ts';

test('who comes alone need not wait, and the event loop runs between two', async () => {
  const turn = turnQueue();
  const seen: string[] = [];
  const take = async (who: string): Promise<void> => {
    await turn();
    seen.push(who);
  };
  setImmediate(() => seen.push('the event loop'));
  await Promise.all([take('first'), take('second')]);
  assert.deepEqual(seen, ['first', 'the event loop', 'second']);
});
