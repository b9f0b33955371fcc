import assert from 'node:assert/strict';
import { test } from 'node:test';
import { driverView } from '../../src/xenstore/driver-view.ts';
import { startStoreServer } from '../../src/xenstore/embedded/server.ts';
import type { StoreOps } from '../../src/xenstore/store.ts';

test('what a driver domain may not see is not there, and every guest is alive', async () => {
  await using server = startStoreServer();
  await using dom0 = server.connect(0);
  await dom0.write('/local/domain/5/name', 'web');
  await dom0.write('/local/domain/2/backend/vbd/5/51712/params', '/d/a.img');
  await dom0.setPermissions('/local/domain/2/backend/vbd/5/51712/params', [
    { access: 'n', domid: 2 },
  ]);
  server.introduce(2);
  await using guest = server.connect(2);
  await assert.rejects(guest.isIntroduced(5), { kind: 'denied' });
  await assert.rejects(guest.read('/local/domain/5/name'), { kind: 'denied' });
  const store = driverView(guest);
  assert.equal(await store.isIntroduced(5), true);
  const params = 'backend/vbd/5/51712/params';
  const { values } = await store.readAll(['/local/domain/5/name', params]);
  assert.deepEqual(values, [undefined, '/d/a.img']);
  assert.equal(await store.read('/local/domain/5/name'), undefined);
  assert.equal(await store.directory('/local/domain/5'), undefined);
  await assert.rejects(store.write('/local/domain/5/name', 'other'), { kind: 'denied' });
});

test('a driver domain never has more transactions open than xenstored grants it', async () => {
  await using server = startStoreServer();
  await using dom0 = server.connect(0);
  await dom0.write('/local/domain/2/backend', '');
  await dom0.setPermissions('/local/domain/2/backend', [{ access: 'n', domid: 2 }]);
  server.introduce(2);
  await using guest = server.connect(2);
  const store = driverView(guest);
  const names = Array.from({ length: 30 }, (_, at) => `backend/${at}`);
  const writing = (name: string) => (tx: StoreOps) => tx.write(name, 'here');
  const refused = await Promise.allSettled(names.map((name) => guest.transaction(writing(name))));
  assert.ok(refused.some(({ status }) => status === 'rejected'));
  await Promise.all(
    names.map((name, index) => {
      using begun = store.begin();
      return index % 2 === 0 ? store.transaction(writing(name)) : begun.run(writing(name));
    }),
  );
  const { values } = await store.readAll(names);
  assert.ok(values.every((value) => value === 'here'));
});
