/** Transactions: what every xenstored and the client together make of them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { isKind, type Suite } from './suite.ts';

export function transactionTests(on: Suite): void {
  test('a transaction is seen from outside when it is committed, and then as a whole', async () => {
    const seen = await on.store.transaction(async (tx) => {
      await tx.write('/tx/a', '1');
      await tx.write('/tx/b', '2');
      return [await tx.read('/tx/a'), await on.other.read('/tx/a')];
    });
    assert.deepEqual(seen, ['1', undefined]);
    assert.deepEqual((await on.other.readAll(['/tx/a', '/tx/b'])).values, ['1', '2']);
  });

  test('writes left unawaited travel with the commit', async () => {
    const before = { ...on.store.counts };
    await on.store.transaction(async (tx) => {
      const value = await tx.read('/tx/a');
      void tx.write('/tx/c', `${value}`);
      void tx.write('/tx/d', `${value}`);
    });
    assert.equal(await on.store.read('/tx/d'), '1');
    assert.equal(on.store.counts.roundTrips - before.roundTrips, 4);
    assert.equal(on.store.counts.requests - before.requests, 6);
  });

  test('when the work throws, nothing is written', async () => {
    const work = on.store.transaction(async (tx) => {
      await tx.write('/tx/never', '1');
      throw new Error('changed my mind');
    });
    await assert.rejects(work, /changed my mind/);
    assert.equal(await on.store.read('/tx/never'), undefined);
  });

  test('an operation that fails before the commit leaves nothing written, looked at or not', async () => {
    for (const path of ['/tx//bad', '/tx/\u{1}']) {
      const work = on.store.transaction(async (tx) => {
        void tx.write('/tx/never', '1');
        await tx.write(path, '1').catch(() => {});
        return 'fine';
      });
      await assert.rejects(work, isKind('invalid'));
    }
    assert.equal(await on.store.read('/tx/never'), undefined);
  });

  test('an operation that fails beside the commit fails it, and says what became of the rest', async () => {
    const work = on.store.transaction((tx) => {
      void tx.write('/tx//bad', '1');
      void tx.write('/tx/rest', '1');
    });
    await assert.rejects(work, (thrown: unknown) => {
      assert.ok(thrown instanceof Failure);
      assert.equal(thrown.facts['committed'], true);
      assert.match(thrown.message, /the rest of the transaction was committed$/);
      return true;
    });
    assert.equal(await on.store.read('/tx/rest'), '1');
  });

  test('a conflict runs the work again, on what the other one wrote', async () => {
    await on.store.write('/tx/counter', '0');
    const count = (from: Store): Promise<void> =>
      from.transaction(async (tx) => {
        const value = Number(await tx.read('/tx/counter'));
        await tx.write('/tx/counter', String(value + 1));
      });
    await Promise.all(
      Array.from({ length: 8 }, (_, n) => count(n % 2 === 0 ? on.store : on.other)),
    );
    assert.equal(await on.store.read('/tx/counter'), '8');
  });

  test('a node that others remove meanwhile is met with another try, too', async () => {
    await on.store.write('/tx/torn/a', '1');
    let tries = 0;
    const removed = await on.store.transaction(async (tx) => {
      tries += 1;
      await tx.read('/tx/torn/a');
      if (tries === 1) await on.other.remove('/tx/torn/a');
      return tx.remove('/tx/torn/a');
    });
    assert.deepEqual({ tries, removed }, { tries: 2, removed: false });
  });

  test('a change elsewhere is no conflict', async () => {
    let runs = 0;
    await on.store.write('/tx/here', '0');
    await on.store.write('/tx-elsewhere', '0');
    await on.store.transaction(async (tx) => {
      runs++;
      await tx.write('/tx/here', String(runs));
      await on.other.write('/tx-elsewhere', String(runs));
    });
    assert.equal(runs, 1);
  });

  test('a conflict that does not end is a failure', async () => {
    let runs = 0;
    const work = on.store.transaction(
      async (tx) => {
        await tx.read('/tx/contended');
        await on.other.write('/tx/contended', String(++runs));
        await tx.write('/tx/contended', 'mine');
      },
      { tries: 3 },
    );
    await assert.rejects(work, isKind('in-use'));
    assert.equal(runs, 3);
  });

  test('an aborted signal ends a transaction unwritten', async () => {
    const abort = new AbortController();
    const work = on.store.transaction(
      async (tx) => {
        await tx.write('/tx/aborted', '1');
        abort.abort(new Error('enough'));
      },
      { signal: abort.signal },
    );
    await assert.rejects(work, /enough/);
    assert.equal(await on.store.read('/tx/aborted'), undefined);
  });

  test('a transaction that was begun early is there when its work is known', async () => {
    const before = { ...on.store.counts };
    using begun = on.store.begin();
    const value = await on.store.read('/tx/a');
    await begun.run((tx) => void tx.write('/tx/early', `${value}`));
    assert.equal(on.store.counts.roundTrips - before.roundTrips, 2);
    assert.equal(await on.store.read('/tx/early'), value);
  });

  test('a transaction that was begun early tries again after a conflict, and runs anew when asked again', async () => {
    await on.store.write('/tx/counter', '0');
    using begun = on.store.begin();
    let runs = 0;
    const count = (): Promise<void> =>
      begun.run(async (tx) => {
        const value = Number(await tx.read('/tx/counter'));
        if (++runs === 1) await on.other.write('/tx/counter', '10');
        await tx.write('/tx/counter', String(value + 1));
      });
    await count();
    await count();
    assert.deepEqual([runs, await on.store.read('/tx/counter')], [3, '12']);
  });

  test('a transaction that was begun and not used is ended', async () => {
    const before = on.store.counts.requests;
    on.store.begin()[Symbol.dispose]();
    await on.store.read('/tx/a');
    await on.store.read('/tx/a');
    assert.equal(on.store.counts.requests - before, 4);
  });
}
