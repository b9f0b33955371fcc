/** Nodes and their permissions: what every xenstored does with them for the client. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { isKind, owned, type Suite } from './suite.ts';

export function nodeTests(on: Suite): void {
  test('a value is read as it was written', async () => {
    for (const value of ['', 'a', '7:0', 'grün/ä 日本', 'x'.repeat(2000)]) {
      await on.store.write('/ops/value', value);
      assert.equal(await on.other.read('/ops/value'), value);
    }
  });

  test('what is not there is undefined, and false when it is to be removed', async () => {
    assert.equal(await on.store.read('/ops/nope'), undefined);
    assert.equal(await on.store.directory('/ops/nope'), undefined);
    assert.equal(await on.store.permissions('/ops/nope'), undefined);
    assert.equal(await on.store.remove('/ops/nope'), false);
    assert.equal(await on.store.remove('/no/parent/either'), false);
  });

  test('a write makes the parents that are missing, with empty values', async () => {
    await on.store.write('/ops/deep/er/est', 'v');
    assert.equal(await on.store.read('/ops/deep/er'), '');
    assert.deepEqual(await on.store.directory('/ops/deep'), ['er']);
    assert.deepEqual(await on.store.directory('/ops/deep/er/est'), []);
  });

  test('mkdir leaves the value of a node that is there', async () => {
    await on.store.write('/ops/kept', 'v');
    await on.store.mkdir('/ops/kept');
    await on.store.mkdir('/ops/made');
    assert.equal(await on.store.read('/ops/kept'), 'v');
    assert.equal(await on.store.read('/ops/made'), '');
  });

  test('removing a node removes all below it and nothing beside it', async () => {
    await Promise.all([
      on.store.write('/ops/tree/a/b/c', '1'),
      on.store.write('/ops/tree/a/d', '2'),
      on.store.write('/ops/tree2', '3'),
    ]);
    assert.equal(await on.store.remove('/ops/tree'), true);
    assert.equal(await on.store.read('/ops/tree/a/b/c'), undefined);
    assert.equal(await on.store.read('/ops/tree2'), '3');
    assert.equal((await on.store.directory('/ops'))?.includes('tree'), false);
  });

  test('relative paths begin at the domain’s own folder', async () => {
    await on.store.write('device/x', 'v');
    assert.equal(await on.other.read('/local/domain/0/device/x'), 'v');
    assert.deepEqual(await on.store.directory('device'), ['x']);
    assert.equal(await on.store.remove('device'), true);
  });

  test('requests of one tick are one round trip, and their answers keep apart', async () => {
    await Promise.all(['1', '2', '3'].map((n) => on.store.write(`/ops/many/${n}`, n)));
    const { requests, roundTrips } = on.store.counts;
    const answers = await Promise.all([
      on.store.read('/ops/many/1'),
      on.store.directory('/ops/many'),
      on.store.read('/ops/many/none'),
      on.store.read('/ops/many/3'),
      on.store.permissions('/ops/many/2'),
    ]);
    assert.deepEqual(answers, ['1', ['1', '2', '3'], undefined, '3', [owned(0)]]);
    assert.equal(on.store.counts.requests - requests, 5);
    assert.equal(on.store.counts.roundTrips - roundTrips, 1);
  });

  test('what xenstored refuses is a failure that names the node and the error', async () => {
    await assert.rejects(on.store.write('/ops//double', 'v'), (thrown: unknown) => {
      assert.ok(thrown instanceof Failure);
      assert.equal(thrown.kind, 'invalid');
      assert.match(thrown.message, /^xenstored refused writing \/ops\/\/double \(EINVAL\) — /);
      assert.equal(thrown.facts['errno'], 'EINVAL');
      return true;
    });
    await assert.rejects(on.store.setPermissions('/ops/none', [owned(0)]), isKind('not-found'));
  });

  test('a list longer than one reply comes whole, or is refused with a reason', async () => {
    const names = Array.from({ length: 700 }, (_, n) => `backend-of-domain-${n}`);
    await Promise.all(names.map((each) => on.store.mkdir(`/big/${each}`)));
    if (on.subject.listsInParts) {
      assert.deepEqual((await on.store.directory('/big'))?.sort(), names.sort());
      assert.equal(
        await on.store.transaction(async (tx) => (await tx.directory('/big'))?.length),
        700,
      );
    } else {
      const listed = await on.store.directory('/big').catch((thrown: unknown) => thrown);
      if (listed instanceof Failure) assert.equal(listed.kind, 'unsupported');
      else assert.equal((listed as string[]).length, 700);
    }
    await on.store.remove('/big');
  });

  test('a large value in one reply and many replies at once come whole', async () => {
    const value = 'v'.repeat(1900);
    await Promise.all([1, 2, 3].map((n) => on.store.write(`/ops/large${n}`, value + n)));
    const read = await Promise.all(
      Array.from({ length: 300 }, (_, n) => on.store.read(`/ops/large${1 + (n % 3)}`)),
    );
    assert.ok(read.every((text, n) => text === value + (1 + (n % 3))));
  });
}

export function permissionTests(on: Suite): void {
  test('permissions are kept in order, and children take over those of their parent', async () => {
    await on.subject.introduce(3);
    await on.store.mkdir('/perms');
    await on.store.setPermissions('/perms', [owned(0), owned(3, 'r')]);
    await on.store.write('/perms/child', 'v');
    assert.deepEqual(await on.store.permissions('/perms'), [owned(0), owned(3, 'r')]);
    assert.deepEqual(await on.store.permissions('/perms/child'), [owned(0), owned(3, 'r')]);
  });

  test('a guest does in its own folder what it likes, and elsewhere what it may', async () => {
    await on.subject.introduce(4);
    await on.store.mkdir('/local/domain/4');
    await on.store.setPermissions('/local/domain/4', [owned(4)]);
    await on.store.write('/local/domain/4/given', 'v');
    await on.store.setPermissions('/local/domain/4/given', [owned(0), owned(4, 'r')]);
    await using guest = await on.subject.open(4);
    await guest.write('device/vbd/51712/state', '1');
    assert.equal(await on.store.read('/local/domain/4/device/vbd/51712/state'), '1');
    assert.deepEqual(await on.store.permissions('/local/domain/4/device'), [owned(4)]);
    assert.equal(await guest.read('given'), 'v');
    await assert.rejects(guest.write('given', 'w'), isKind('denied'));
    await assert.rejects(guest.write('/elsewhere', 'v'), isKind('denied'));
    await assert.rejects(guest.directory('/perms'), isKind('denied'));
    await assert.rejects(guest.setPermissions('given', [owned(4)]), isKind('denied'));
    await guest.setPermissions('device', [owned(4), owned(0, 'r')]);
    assert.deepEqual(await guest.permissions('device'), [owned(4), owned(0, 'r')]);
  });

  test('a guest cannot own nodes without end', async () => {
    await on.subject.introduce(6);
    await on.store.mkdir('/local/domain/6');
    await on.store.setPermissions('/local/domain/6', [owned(6)]);
    await using guest = await on.subject.open(6);
    const fill = async (): Promise<void> => {
      for (let n = 0; n < 1100; n++) await guest.mkdir(`fill/${n % 40}/${n}`);
    };
    await assert.rejects(fill(), isKind('exhausted'));
  });
}
