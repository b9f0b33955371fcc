/** What every xenstored must do for the client: one suite, run on each of them. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure, type FailureKind } from '../../src/base/failure.ts';
import type { Permission, Store } from '../../src/xenstore/store.ts';
import type { SkipOption } from '../peers.ts';
import type { Subject } from './stores.ts';

const owned = (domid: number, access: Permission['access'] = 'n'): Permission => ({
  access,
  domid,
});

function isKind(kind: FailureKind) {
  return (thrown: unknown) => thrown instanceof Failure && thrown.kind === kind;
}

/** Resolves when `done` holds; a store that never gets there fails the test. */
export async function until(done: () => boolean, what: string): Promise<void> {
  for (let tries = 0; !done(); tries++) {
    assert.ok(tries < 500, `it never came to pass: ${what}`);
    await sleep(10);
  }
}

export function storeSuite(name: string, start: () => Promise<Subject>, option: SkipOption): void {
  describe(name, option, () => {
    let subject: Subject;
    let store: Store;
    let other: Store;
    before(async () => {
      subject = await start();
      store = await subject.open(0);
      other = await subject.open(0);
    });
    after(async () => {
      await store?.[Symbol.asyncDispose]();
      await other?.[Symbol.asyncDispose]();
      await subject?.[Symbol.asyncDispose]();
    });

    test('a value is read as it was written', async () => {
      for (const value of ['', 'a', '7:0', 'grün/ä 日本', 'x'.repeat(2000)]) {
        await store.write('/ops/value', value);
        assert.equal(await other.read('/ops/value'), value);
      }
    });

    test('what is not there is undefined, and false when it is to be removed', async () => {
      assert.equal(await store.read('/ops/nope'), undefined);
      assert.equal(await store.directory('/ops/nope'), undefined);
      assert.equal(await store.permissions('/ops/nope'), undefined);
      assert.equal(await store.remove('/ops/nope'), false);
      assert.equal(await store.remove('/no/parent/either'), false);
    });

    test('a write makes the parents that are missing, with empty values', async () => {
      await store.write('/ops/deep/er/est', 'v');
      assert.equal(await store.read('/ops/deep/er'), '');
      assert.deepEqual(await store.directory('/ops/deep'), ['er']);
      assert.deepEqual(await store.directory('/ops/deep/er/est'), []);
    });

    test('mkdir leaves the value of a node that is there', async () => {
      await store.write('/ops/kept', 'v');
      await store.mkdir('/ops/kept');
      await store.mkdir('/ops/made');
      assert.equal(await store.read('/ops/kept'), 'v');
      assert.equal(await store.read('/ops/made'), '');
    });

    test('removing a node removes all below it and nothing beside it', async () => {
      await Promise.all([
        store.write('/ops/tree/a/b/c', '1'),
        store.write('/ops/tree/a/d', '2'),
        store.write('/ops/tree2', '3'),
      ]);
      assert.equal(await store.remove('/ops/tree'), true);
      assert.equal(await store.read('/ops/tree/a/b/c'), undefined);
      assert.equal(await store.read('/ops/tree2'), '3');
      assert.equal((await store.directory('/ops'))?.includes('tree'), false);
    });

    test('relative paths begin at the domain’s own folder', async () => {
      await store.write('device/x', 'v');
      assert.equal(await other.read('/local/domain/0/device/x'), 'v');
      assert.deepEqual(await store.directory('device'), ['x']);
      assert.equal(await store.remove('device'), true);
    });

    test('requests of one tick are one round trip, and their answers keep apart', async () => {
      await Promise.all(['1', '2', '3'].map((n) => store.write(`/ops/many/${n}`, n)));
      const { requests, roundTrips } = store.counts;
      const answers = await Promise.all([
        store.read('/ops/many/1'),
        store.directory('/ops/many'),
        store.read('/ops/many/none'),
        store.read('/ops/many/3'),
        store.permissions('/ops/many/2'),
      ]);
      assert.deepEqual(answers, ['1', ['1', '2', '3'], undefined, '3', [owned(0)]]);
      assert.deepEqual(
        { ...store.counts, requests: store.counts.requests - requests },
        {
          ...store.counts,
          requests: 5,
          roundTrips: roundTrips + 1,
        },
      );
    });

    test('what xenstored refuses is a failure that names the node and the error', async () => {
      await assert.rejects(store.write('/ops//double', 'v'), (thrown: unknown) => {
        assert.ok(thrown instanceof Failure);
        assert.equal(thrown.kind, 'invalid');
        assert.match(thrown.message, /^xenstored refused writing \/ops\/\/double \(EINVAL\) — /);
        assert.equal(thrown.facts['errno'], 'EINVAL');
        return true;
      });
      await assert.rejects(store.setPermissions('/ops/none', [owned(0)]), isKind('not-found'));
    });

    test('a list longer than one reply comes whole, or is refused with a reason', async () => {
      const names = Array.from({ length: 700 }, (_, n) => `backend-of-domain-${n}`);
      await Promise.all(names.map((each) => store.mkdir(`/big/${each}`)));
      if (subject.listsInParts) {
        assert.deepEqual((await store.directory('/big'))?.sort(), names.sort());
        assert.equal(
          await store.transaction(async (tx) => (await tx.directory('/big'))?.length),
          700,
        );
      } else {
        const listed = await store.directory('/big').catch((thrown: unknown) => thrown);
        if (listed instanceof Failure) assert.equal(listed.kind, 'unsupported');
        else assert.equal((listed as string[]).length, 700);
      }
      await store.remove('/big');
    });

    test('a large value in one reply and many replies at once come whole', async () => {
      const value = 'v'.repeat(1900);
      await Promise.all([1, 2, 3].map((n) => store.write(`/ops/large${n}`, value + n)));
      const read = await Promise.all(
        Array.from({ length: 300 }, (_, n) => store.read(`/ops/large${1 + (n % 3)}`)),
      );
      assert.ok(read.every((text, n) => text === value + (1 + (n % 3))));
    });

    permissionTests();
    transactionTests();
    watchTests();
    domainTests();
    reconnectionTests();

    function permissionTests(): void {
      test('permissions are kept in order, and children take over those of their parent', async () => {
        await subject.introduce(3);
        await store.mkdir('/perms');
        await store.setPermissions('/perms', [owned(0), owned(3, 'r')]);
        await store.write('/perms/child', 'v');
        assert.deepEqual(await store.permissions('/perms'), [owned(0), owned(3, 'r')]);
        assert.deepEqual(await store.permissions('/perms/child'), [owned(0), owned(3, 'r')]);
      });

      test('a guest does in its own folder what it likes, and elsewhere what it may', async () => {
        await subject.introduce(4);
        await store.mkdir('/local/domain/4');
        await store.setPermissions('/local/domain/4', [owned(4)]);
        await store.write('/local/domain/4/given', 'v');
        await store.setPermissions('/local/domain/4/given', [owned(0), owned(4, 'r')]);
        await using guest = await subject.open(4);
        await guest.write('device/vbd/51712/state', '1');
        assert.equal(await store.read('/local/domain/4/device/vbd/51712/state'), '1');
        assert.deepEqual(await store.permissions('/local/domain/4/device'), [owned(4)]);
        assert.equal(await guest.read('given'), 'v');
        await assert.rejects(guest.write('given', 'w'), isKind('denied'));
        await assert.rejects(guest.write('/elsewhere', 'v'), isKind('denied'));
        await assert.rejects(guest.directory('/perms'), isKind('denied'));
        await assert.rejects(guest.setPermissions('given', [owned(4)]), isKind('denied'));
        await guest.setPermissions('device', [owned(4), owned(0, 'r')]);
        assert.deepEqual(await guest.permissions('device'), [owned(4), owned(0, 'r')]);
      });

      test('a guest cannot own nodes without end', async () => {
        await subject.introduce(6);
        await store.mkdir('/local/domain/6');
        await store.setPermissions('/local/domain/6', [owned(6)]);
        await using guest = await subject.open(6);
        const fill = async (): Promise<void> => {
          for (let n = 0; n < 1100; n++) await guest.mkdir(`fill/${n % 40}/${n}`);
        };
        await assert.rejects(fill(), isKind('exhausted'));
      });
    }

    function transactionTests(): void {
      test('a transaction is seen from outside when it is committed, and then as a whole', async () => {
        const seen = await store.transaction(async (tx) => {
          await tx.write('/tx/a', '1');
          await tx.write('/tx/b', '2');
          return [await tx.read('/tx/a'), await other.read('/tx/a')];
        });
        assert.deepEqual(seen, ['1', undefined]);
        assert.deepEqual((await other.readAll(['/tx/a', '/tx/b'])).values, ['1', '2']);
      });

      test('writes left unawaited travel with the commit', async () => {
        const before = { ...store.counts };
        await store.transaction(async (tx) => {
          const value = await tx.read('/tx/a');
          void tx.write('/tx/c', `${value}`);
          void tx.write('/tx/d', `${value}`);
        });
        assert.equal(await store.read('/tx/d'), '1');
        assert.equal(store.counts.roundTrips - before.roundTrips, 4);
        assert.equal(store.counts.requests - before.requests, 6);
      });

      test('when the work throws, nothing is written', async () => {
        const work = store.transaction(async (tx) => {
          await tx.write('/tx/never', '1');
          throw new Error('changed my mind');
        });
        await assert.rejects(work, /changed my mind/);
        assert.equal(await store.read('/tx/never'), undefined);
      });

      test('an operation that fails before the commit leaves nothing written, looked at or not', async () => {
        for (const path of ['/tx//bad', '/tx/\u{1}']) {
          const work = store.transaction(async (tx) => {
            void tx.write('/tx/never', '1');
            await tx.write(path, '1').catch(() => {});
            return 'fine';
          });
          await assert.rejects(work, isKind('invalid'));
        }
        assert.equal(await store.read('/tx/never'), undefined);
      });

      test('an operation that fails beside the commit fails it, and says what became of the rest', async () => {
        const work = store.transaction((tx) => {
          void tx.write('/tx//bad', '1');
          void tx.write('/tx/rest', '1');
        });
        await assert.rejects(work, (thrown: unknown) => {
          assert.ok(thrown instanceof Failure);
          assert.equal(thrown.facts['committed'], true);
          assert.match(thrown.message, /the rest of the transaction was committed$/);
          return true;
        });
        assert.equal(await store.read('/tx/rest'), '1');
      });

      test('a conflict runs the work again, on what the other one wrote', async () => {
        await store.write('/tx/counter', '0');
        const count = (from: Store): Promise<void> =>
          from.transaction(async (tx) => {
            const value = Number(await tx.read('/tx/counter'));
            await tx.write('/tx/counter', String(value + 1));
          });
        await Promise.all(Array.from({ length: 8 }, (_, n) => count(n % 2 === 0 ? store : other)));
        assert.equal(await store.read('/tx/counter'), '8');
      });

      test('a change elsewhere is no conflict', async () => {
        let runs = 0;
        await store.write('/tx/here', '0');
        await store.write('/tx-elsewhere', '0');
        await store.transaction(async (tx) => {
          runs++;
          await tx.write('/tx/here', String(runs));
          await other.write('/tx-elsewhere', String(runs));
        });
        assert.equal(runs, 1);
      });

      test('a conflict that does not end is a failure', async () => {
        let runs = 0;
        const work = store.transaction(
          async (tx) => {
            await tx.read('/tx/contended');
            await other.write('/tx/contended', String(++runs));
            await tx.write('/tx/contended', 'mine');
          },
          { tries: 3 },
        );
        await assert.rejects(work, isKind('in-use'));
        assert.equal(runs, 3);
      });

      test('an aborted signal ends a transaction unwritten', async () => {
        const abort = new AbortController();
        const work = store.transaction(
          async (tx) => {
            await tx.write('/tx/aborted', '1');
            abort.abort(new Error('enough'));
          },
          { signal: abort.signal },
        );
        await assert.rejects(work, /enough/);
        assert.equal(await store.read('/tx/aborted'), undefined);
      });
    }

    function watchTests(): void {
      test('a watch fires once at first, then for every change at or below it', async () => {
        const paths: string[] = [];
        await using _ = await store.observe('/w/here', ({ path }) => paths.push(path));
        await other.write('/w/here', '1');
        await other.write('/w/here/below/it', '1');
        await other.write('/w/beside', '1');
        await other.remove('/w/here/below');
        await store.read('/w/here');
        assert.deepEqual(paths, ['/w/here', '/w/here', '/w/here/below/it', '/w/here/below']);
      });

      test('an event is delivered before the reply to what was asked after the change', async () => {
        const events: { path: string; at: number }[] = [];
        await using _ = await store.observe('/w/order', (event) => events.push(event));
        for (let n = 1; n <= 50; n++) {
          await other.write('/w/order/x', String(n));
          const { values, at } = await store.readAll(['/w/order/x', '/w/order/y']);
          assert.deepEqual(values, [String(n), undefined]);
          assert.equal(events.length, n + 1);
          assert.ok((events.at(-1)?.at ?? Infinity) < at);
        }
      });

      test('a watch given relatively tells relative paths', async () => {
        const paths: string[] = [];
        await using _ = await store.observe('relative', ({ path }) => paths.push(path));
        await other.write('/local/domain/0/relative/a', '1');
        await store.read('/');
        assert.deepEqual(paths, ['relative', 'relative/a']);
      });

      test('a transaction fires when it is committed', async () => {
        const paths: string[] = [];
        await using _ = await store.observe('/w/tx', ({ path }) => paths.push(path));
        await other.transaction(async (tx) => {
          await tx.write('/w/tx/a', '1');
          await store.read('/');
          assert.deepEqual(paths, ['/w/tx']);
          void tx.write('/w/tx/b', '1');
        });
        await store.read('/');
        assert.deepEqual(paths, ['/w/tx', '/w/tx/a', '/w/tx/b']);
      });

      test('after it is disposed a watch is silent, and the others are not', async () => {
        const first: string[] = [];
        const second: string[] = [];
        const watch = await store.observe('/w/gone', ({ path }) => first.push(path));
        await using _ = await store.observe('/w/gone', ({ path }) => second.push(path));
        await watch[Symbol.asyncDispose]();
        await other.write('/w/gone/x', '1');
        await store.read('/');
        assert.deepEqual(first, ['/w/gone']);
        assert.deepEqual(second, ['/w/gone', '/w/gone/x']);
      });

      test('a watch as an iterable ends with its signal', async () => {
        const abort = new AbortController();
        const paths: string[] = [];
        for await (const { path } of store.watch('/w/iterated', abort.signal)) {
          paths.push(path);
          if (paths.length === 3) abort.abort();
          else await other.write(`/w/iterated/${paths.length}`, '1');
        }
        assert.deepEqual(paths, ['/w/iterated', '/w/iterated/1', '/w/iterated/2']);
      });
    }

    function domainTests(): void {
      test('domains that come and go are told of, and known', async () => {
        let introduced = 0;
        let released = 0;
        await using _a = await store.observe('@introduceDomain', () => introduced++);
        await using _b = await store.observe('@releaseDomain', () => released++);
        await store.read('/');
        assert.deepEqual([introduced, released], [1, 1]);
        assert.equal(await store.isIntroduced(9), false);
        await subject.introduce(9);
        await until(() => introduced === 2, '@introduceDomain');
        assert.equal(await store.isIntroduced(9), true);
        assert.equal(await store.isIntroduced(0), true);
        subject.destroy(9);
        await until(() => released >= 2, '@releaseDomain');
        assert.equal(await store.isIntroduced(9), false);
      });

      test('a guest is told of what it may read, with its own paths', async () => {
        await subject.introduce(8);
        await store.mkdir('/local/domain/8/mine');
        await store.setPermissions('/local/domain/8/mine', [owned(0), owned(8, 'r')]);
        await using guest = await subject.open(8);
        const paths: string[] = [];
        await using _ = await guest.observe('mine', ({ path }) => paths.push(path));
        await store.write('/local/domain/8/mine/x', '1');
        await store.write('/local/domain/8/mine/secret', '1');
        await store.setPermissions('/local/domain/8/mine/secret', [owned(0)]);
        await guest.read('mine/x');
        assert.equal(paths[0], 'mine');
        assert.ok(paths.includes('mine/x'));
      });
    }

    function reconnectionTests(): void {
      test('when xenstored comes back, watches fire again; meanwhile requests are refused at once', async () => {
        await using lone = await subject.open(0);
        const paths: string[] = [];
        const told: boolean[] = [];
        await using _ = await lone.observe('/again', ({ path }) => paths.push(path));
        using _listener = lone.onConnection((connected) => told.push(connected));
        await subject.crash();
        await until(() => told.length === 1, 'the loss');
        await assert.rejects(lone.read('/again'), isKind('unavailable'));
        await assert.rejects(lone.write('/again', '1'), isKind('unavailable'));
        const work = lone.transaction(() => {});
        await assert.rejects(work, isKind('unavailable'));
        await subject.restart();
        await until(() => told.length === 2, 'the return');
        assert.deepEqual(told, [false, true]);
        assert.deepEqual(paths, ['/again', '/again']);
        await lone.write('/again/x', '1');
        await lone.read('/again');
        assert.deepEqual(paths, ['/again', '/again', '/again/x']);
      });
    }
  });
}
