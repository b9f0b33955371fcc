/** The queue of passphrases that are tried. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { type TryQueue, tryQueue } from '../../src/base/try-queue.ts';

/** A queue, and its tries, whose ends are in the test's hand. */
interface Bench {
  readonly begun: string[];
  readonly isWanted: Map<string, () => boolean>;
  readonly ask: (name: string, waits?: AbortSignal) => Promise<string>;
  readonly end: (name: string) => void;
  readonly fail: (name: string) => void;
}

const forever = new AbortController().signal;

function bench(most: number, keptMs = 60_000): Bench {
  const queue: TryQueue<string> = tryQueue(most, keptMs);
  const ends = new Map<string, PromiseWithResolvers<string>>();
  const begun: string[] = [];
  const isWanted = new Map<string, () => boolean>();
  return {
    begun,
    isWanted,
    ask(name, waits = forever) {
      const start = (wanted: () => boolean): Promise<string> => {
        const end = Promise.withResolvers<string>();
        begun.push(name);
        isWanted.set(name, wanted);
        ends.set(name, end);
        return end.promise;
      };
      return queue(name, start, waits);
    },
    end: (name) => ends.get(name)?.resolve(`the end of ${name}`),
    fail: (name) => ends.get(name)?.reject(new Error(`${name} failed`)),
  };
}

test('no more are tried at a time than may be, and those in their turn', async () => {
  const { ask, begun, end, fail } = bench(2);
  const all = ['a', 'b', 'c', 'd'].map((name) => ask(name));
  assert.deepEqual(begun, ['a', 'b']);
  fail('b');
  await assert.rejects(all[1] ?? Promise.resolve(), /b failed/);
  assert.deepEqual(begun, ['a', 'b', 'c']);
  end('c');
  await all[2];
  assert.deepEqual(begun, ['a', 'b', 'c', 'd']);
  end('d');
  end('a');
  assert.deepEqual([await all[0], await all[3]], ['the end of a', 'the end of d']);
});

test('what nobody waits for any more is not begun, and keeps its turn for who asks again', async () => {
  const { ask, begun, end } = bench(1);
  const patience = new AbortController();
  const first = ask('first');
  const left = ask('left', patience.signal);
  const asked = ask('asked again', patience.signal);
  const last = ask('last');
  patience.abort();
  await assert.rejects(left, { kind: 'gone' });
  await assert.rejects(asked, { kind: 'gone' });
  const again = ask('asked again');
  end('first');
  await first;
  assert.deepEqual(begun, ['first', 'asked again']);
  end('asked again');
  await again;
  end('last');
  await last;
  assert.deepEqual(begun, ['first', 'asked again', 'last']);
});

test('what takes longer than anybody waits is found by who asks again, under way or at its end', async () => {
  const { ask, begun, end } = bench(1);
  for (const _round of [1, 2]) {
    const patience = new AbortController();
    const asked = ask('slow', patience.signal);
    patience.abort();
    await assert.rejects(asked, { kind: 'gone' });
  }
  end('slow');
  await turn();
  const last = ask('slow');
  assert.deepEqual(begun, ['slow']);
  assert.equal(await last, 'the end of slow');
});

test('an end that somebody has taken is not kept', async () => {
  const { ask, begun, end } = bench(1);
  const both = [ask('key'), ask('key')];
  end('key');
  await Promise.all(both);
  const again = ask('key');
  assert.deepEqual(begun, ['key', 'key']);
  end('key');
  await again;
});

test('who is gone already has nothing begun', async () => {
  const { ask, begun } = bench(1);
  await assert.rejects(ask('key', AbortSignal.abort()), { kind: 'gone' });
  assert.deepEqual(begun, []);
});

test('what is not asked for again is forgotten, and knows that it is not wanted', async () => {
  const { ask, begun, end, isWanted } = bench(1, 1);
  const patience = new AbortController();
  const asked = ask('key', patience.signal);
  assert.equal(isWanted.get('key')?.(), true);
  patience.abort();
  await assert.rejects(asked, { kind: 'gone' });
  while (isWanted.get('key')?.() === true) await sleep(1);
  end('key');
  await turn();
  const again = ask('key');
  assert.deepEqual(begun, ['key', 'key']);
  end('key');
  await again;
});
