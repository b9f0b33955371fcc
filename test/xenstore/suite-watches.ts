/** Watches, domains that come and go, and a xenstored that does. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isKind, owned, type Suite, until } from './suite.ts';

export function watchTests(on: Suite): void {
  test('a watch fires once at first, then for every change at or below it', async () => {
    const paths: string[] = [];
    await using _ = await on.store.observe('/w/here', ({ path }) => paths.push(path));
    await on.other.write('/w/here', '1');
    await on.other.write('/w/here/below/it', '1');
    await on.other.write('/w/beside', '1');
    await on.other.remove('/w/here/below');
    await on.store.read('/w/here');
    assert.deepEqual(paths, ['/w/here', '/w/here', '/w/here/below/it', '/w/here/below']);
  });

  test('an event is delivered before the reply to what was asked after the change', async () => {
    const events: { path: string; at: number }[] = [];
    await using _ = await on.store.observe('/w/order', (event) => events.push(event));
    for (let n = 1; n <= 50; n++) {
      await on.other.write('/w/order/x', String(n));
      const { values, at } = await on.store.readAll(['/w/order/x', '/w/order/y']);
      assert.deepEqual(values, [String(n), undefined]);
      assert.equal(events.length, n + 1);
      assert.ok((events.at(-1)?.at ?? Infinity) < at);
    }
  });

  test('a watch given relatively tells relative paths', async () => {
    const paths: string[] = [];
    await using _ = await on.store.observe('relative', ({ path }) => paths.push(path));
    await on.other.write('/local/domain/0/relative/a', '1');
    await on.store.read('/');
    assert.deepEqual(paths, ['relative', 'relative/a']);
  });

  test('a transaction fires when it is committed', async () => {
    const paths: string[] = [];
    await using _ = await on.store.observe('/w/tx', ({ path }) => paths.push(path));
    await on.other.transaction(async (tx) => {
      await tx.write('/w/tx/a', '1');
      await on.store.read('/');
      assert.deepEqual(paths, ['/w/tx']);
      void tx.write('/w/tx/b', '1');
    });
    await on.store.read('/');
    assert.deepEqual(paths, ['/w/tx', '/w/tx/a', '/w/tx/b']);
  });

  test('after it is disposed a watch is silent, and the others are not', async () => {
    const first: string[] = [];
    const second: string[] = [];
    const watch = await on.store.observe('/w/gone', ({ path }) => first.push(path));
    await using _ = await on.store.observe('/w/gone', ({ path }) => second.push(path));
    await watch[Symbol.asyncDispose]();
    await on.other.write('/w/gone/x', '1');
    await on.store.read('/');
    assert.deepEqual(first, ['/w/gone']);
    assert.deepEqual(second, ['/w/gone', '/w/gone/x']);
  });

  test('a watch as an iterable ends with its signal', async () => {
    const abort = new AbortController();
    const paths: string[] = [];
    for await (const { path } of on.store.watch('/w/iterated', abort.signal)) {
      paths.push(path);
      if (paths.length === 3) abort.abort();
      else await on.other.write(`/w/iterated/${paths.length}`, '1');
    }
    assert.deepEqual(paths, ['/w/iterated', '/w/iterated/1', '/w/iterated/2']);
  });
}

export function domainTests(on: Suite): void {
  test('domains that come and go are told of, and known', async () => {
    let introduced = 0;
    let released = 0;
    await using _a = await on.store.observe('@introduceDomain', () => introduced++);
    await using _b = await on.store.observe('@releaseDomain', () => released++);
    await on.store.read('/');
    assert.deepEqual([introduced, released], [1, 1]);
    assert.equal(await on.store.isIntroduced(9), false);
    await on.subject.introduce(9);
    await until(() => introduced === 2, '@introduceDomain');
    assert.equal(await on.store.isIntroduced(9), true);
    assert.equal(await on.store.isIntroduced(0), true);
    on.subject.destroy(9);
    await until(() => released >= 2, '@releaseDomain');
    assert.equal(await on.store.isIntroduced(9), false);
  });

  test('a guest is told of what it may read, with its own paths', async () => {
    await on.subject.introduce(8);
    await on.store.mkdir('/local/domain/8/mine');
    await on.store.setPermissions('/local/domain/8/mine', [owned(0), owned(8, 'r')]);
    await using guest = await on.subject.open(8);
    const paths: string[] = [];
    await using _ = await guest.observe('mine', ({ path }) => paths.push(path));
    await on.store.write('/local/domain/8/mine/x', '1');
    await on.store.write('/local/domain/8/mine/secret', '1');
    await on.store.setPermissions('/local/domain/8/mine/secret', [owned(0)]);
    await guest.read('mine/x');
    assert.equal(paths[0], 'mine');
    assert.ok(paths.includes('mine/x'));
  });
}

export function reconnectionTests(on: Suite): void {
  test('when xenstored comes back, watches fire again; meanwhile requests are refused at once', async () => {
    await using lone = await on.subject.open(0);
    const paths: string[] = [];
    const told: boolean[] = [];
    await using _ = await lone.observe('/again', ({ path }) => paths.push(path));
    using _listener = lone.onConnection((connected) => told.push(connected));
    await on.subject.crash();
    await until(() => told.length === 1, 'the loss');
    await assert.rejects(lone.read('/again'), isKind('unavailable'));
    await assert.rejects(lone.write('/again', '1'), isKind('unavailable'));
    const work = lone.transaction(() => {});
    await assert.rejects(work, isKind('unavailable'));
    await on.subject.restart();
    await until(() => told.length === 2, 'the return');
    assert.deepEqual(told, [false, true]);
    // Oxenstored answers that it watches before it fires.
    await until(() => paths.length === 2, 'the watch');
    await lone.write('/again/x', '1');
    await until(() => paths.length === 3, 'what was written');
    assert.deepEqual(paths, ['/again', '/again', '/again/x']);
  });
}
