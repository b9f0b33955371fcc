/** vbdd on an embedded host: disks come, are shared or refused, and go. */
import assert from 'node:assert/strict';
import { linkSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createDevicePool, type DevicePool } from '../../src/backend/device-pool.ts';
import { Failure } from '../../src/base/failure.ts';
import { O, openFd } from '../../src/sys/fd.ts';
import { needsLoop } from '../peers.ts';
import { rawFile, testLoop } from '../host/test-host.ts';
import { boundLoops } from '../sys/losetup.ts';
import { startVbdkit } from './test-daemon.ts';

const options = needsLoop();
const backend = (domid: number, devid = 51712): string =>
  `/local/domain/0/backend/vbd/${domid}/${devid}`;

test('a raw file reaches a guest: nodes, device, reads and writes', options, async () => {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const file = rawFile(host, 'a.img');
  const guest = await host.createGuest({
    name: 'web',
    disks: [`${file},raw,xvda,rw,script=block-vbd`],
  });
  const disk = await guest.disk('xvda');
  await disk.write(7, Buffer.alloc(512, 'v'));
  assert.equal(Buffer.from(await disk.read(7, 1)).toString('latin1'), 'v'.repeat(512));

  const [[number]] = boundLoops(host.dir) as unknown as [[number]];
  const path = backend(guest.domid);
  assert.equal(await host.store.read(`${path}/physical-device`), `7:${number.toString(16)}`);
  assert.equal(await host.store.read(`${path}/physical-device-path`), `/dev/loop${number}`);
  assert.equal(await host.store.read(`${path}/hotplug-status`), 'connected');
  assert.match((await host.store.read(`${path}/diskseq`)) ?? '', /^[\da-f]+$/);

  await guest.shutdown();
  await vbdd.disks.settled();
  assert.deepEqual(boundLoops(host.dir).size, 0);
  assert.equal(vbdd.disks.records.size, 0);
});

test('fifty guests read one file through one loop device', options, async () => {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const file = rawFile(host, 'kernel.img');
  const disks = [`${file},raw,xvdb,ro,script=block-vbd`];
  const creating = Array.from({ length: 50 }, (_, index) =>
    host.createGuest({ name: `reader${index}`, disks }),
  );
  const guests = await Promise.all(creating);
  assert.equal(boundLoops(host.dir).size, 1);
  assert.equal(vbdd.world.loops.bound, 1);
  await Promise.all(guests.map((guest) => guest.destroy()));
  await vbdd.disks.settled();
  assert.equal(boundLoops(host.dir).size, 0);
});

test('a device that another program has for a moment is waited for', options, async () => {
  using pool = createDevicePool();
  let other: Disposable = { [Symbol.dispose]: () => {} };
  const devices: DevicePool = {
    held: 0,
    acquire(request) {
      try {
        return pool.acquire(request);
      } catch (thrown) {
        other[Symbol.dispose]();
        throw thrown;
      }
    },
    [Symbol.dispose]: () => {},
  };
  await using kit = await startVbdkit({ devices });
  const { host, vbdd } = kit;
  const bound = testLoop(rawFile(host, 'a.img'));
  using _open = openFd(bound.path, O.RDONLY);
  other = bound;
  const disks = [`${bound.path},raw,xvda,rw,script=block-vbd`];
  const guest = await host.createGuest({ name: 'web', disks });
  await guest.disk('xvda');
  await guest.shutdown();
  await vbdd.disks.settled();
});

const otherPaths = {
  'the same path': (file: string) => file,
  'a hard link': (file: string) => {
    linkSync(file, `${file}.hard`);
    return `${file}.hard`;
  },
  'a symbolic link': (file: string) => {
    symlinkSync(file, `${file}.soft`);
    return `${file}.soft`;
  },
  'another spelling': (file: string) => join(file, '..', '.', 'a.img').replace('/a.img', '//a.img'),
};
for (const [what, other] of Object.entries(otherPaths)) {
  test(`a second writer is refused by ${what}, and nothing of it is left`, options, async () => {
    await using kit = await startVbdkit();
    const { host, vbdd } = kit;
    const file = rawFile(host, 'a.img');
    await host.createGuest({ name: 'web', disks: [`${file},raw,xvda,rw,script=block-vbd`] });
    const path = other(file);
    for (const access of ['rw', 'ro']) {
      const disks = [`vdev=xvdb,access=${access},script=block-vbd,target=${path}`];
      await assert.rejects(host.createGuest({ name: 'mail', disks }), (thrown) => {
        assert.ok(thrown instanceof Failure && thrown.kind === 'in-use');
        assert.match(thrown.message, /in use by guest web \(domid 1\) as xvda for writing/);
        return true;
      });
    }
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 1);
    assert.equal(vbdd.disks.records.size, 1);
  });
}

test('four guests that ask at the same moment do not all get it', options, async () => {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const file = rawFile(host, 'a.img');
  const domids = [41, 42, 43, 44];
  const nodes = { script: '/s/block-vbd', params: file, mode: 'w', online: '1', state: '2' };
  await host.store.transaction((tx) => {
    for (const domid of domids) {
      for (const [name, value] of Object.entries(nodes)) {
        void tx.write(`${backend(domid)}/${name}`, value);
      }
    }
  });
  await Promise.all(
    domids.map((domid) =>
      vbdd.disks.until({ kind: 'vbd', domid, devid: 51712 }, 5000, (record) => !!record.outcome),
    ),
  );
  const { values } = await host.store.readAll(
    domids.map((domid) => `${backend(domid)}/hotplug-status`),
  );
  assert.deepEqual(values.map(String).sort(), ['busy', 'busy', 'busy', 'connected']);
  assert.equal(boundLoops(host.dir).size, 1);
});

test(
  'one guest may have a file twice, and its stub domain and migrating half may, too',
  options,
  async () => {
    await using kit = await startVbdkit();
    const { host } = kit;
    const file = rawFile(host, 'a.img');
    const disk = (vdev: string): string => `${file},raw,${vdev},rw,script=block-vbd`;
    const guest = await host.createGuest({ name: 'web', disks: [disk('xvda'), disk('xvdb')] });
    await host.createGuest({ name: 'web-dm', disks: [disk('xvda')], target: guest.domid });
    await host.createGuest({ name: 'web--incoming', disks: [disk('xvda')], uuid: guest.uuid });
    assert.equal(boundLoops(host.dir).size, 1);
    await assert.rejects(host.createGuest({ name: 'other', disks: [disk('xvda')] }), {
      kind: 'in-use',
    });
  },
);

test(
  'a disk that another script attached counts as a holder and is left alone',
  options,
  async () => {
    await using kit = await startVbdkit();
    const { host, vbdd } = kit;
    const file = rawFile(host, 'a.img');
    using loop = testLoop(file);
    const path = backend(90);
    await host.store.transaction((tx) => {
      void tx.write(`${path}/script`, '/etc/xen/scripts/block-iscsi');
      void tx.write(`${path}/params`, 'iqn.2001-05.example');
      void tx.write(`${path}/mode`, 'w');
      void tx.write(`${path}/physical-device`, loop.physicalDevice);
      void tx.write(`${path}/state`, '4');
    });
    const disks = [`${file},raw,xvda,rw,script=block-vbd`];
    await assert.rejects(host.createGuest({ name: 'web', disks }), (thrown) => {
      assert.match(String(thrown), /in use by .*90/);
      return true;
    });
    await host.store.remove(path);
    await vbdd.disks.settled();
    await host.createGuest({ name: 'web', disks });
  },
);

test('a qdisk of the same file counts as a holder', options, async () => {
  await using kit = await startVbdkit();
  const { host } = kit;
  const file = rawFile(host, 'a.img');
  const path = '/local/domain/0/backend/qdisk/91/51712';
  await host.store.transaction((tx) => {
    void tx.write(`${path}/params`, `aio:${file}`);
    void tx.write(`${path}/mode`, 'w');
    void tx.write(`${path}/state`, '4');
  });
  const disks = [`${file},raw,xvda,rw,script=block-vbd`];
  await assert.rejects(host.createGuest({ name: 'web', disks }), { kind: 'in-use' });
});

test('a file name with a newline and a quote works, and is shown safely', options, async () => {
  await using kit = await startVbdkit();
  const { host } = kit;
  const dir = join(host.dir, 'od d');
  mkdirSync(dir);
  const file = join(dir, "a\n'b.img");
  writeFileSync(file, Buffer.alloc(4096));
  const path = backend(33);
  await host.store.transaction((tx) => {
    const nodes = { script: '/s/block-vbd', params: file, mode: 'w', online: '1', state: '2' };
    for (const [name, value] of Object.entries(nodes)) void tx.write(`${path}/${name}`, value);
  });
  await kit.vbdd.disks.until({ kind: 'vbd', domid: 33, devid: 51712 }, 5000, (r) => r.published);
  assert.equal(await host.store.read(`${path}/hotplug-status`), 'connected');
});

test('a disk that is closed in mid-attach gets nothing', options, async () => {
  await using kit = await startVbdkit();
  const { host, vbdd } = kit;
  const file = rawFile(host, 'a.img');
  const path = backend(34);
  await host.store.transaction((tx) => {
    const nodes = { script: '/s/block-vbd', params: file, mode: 'w', online: '1', state: '2' };
    for (const [name, value] of Object.entries(nodes)) void tx.write(`${path}/${name}`, value);
  });
  // As if xl gave up while vbdd worked: state 5 comes between its reading and its writing.
  await host.store.transaction((tx) => {
    void tx.write(`${path}/online`, '0');
    void tx.write(`${path}/state`, '5');
  });
  await host.store.remove(path);
  await vbdd.disks.settled();
  await vbdd.scan();
  assert.equal(await host.store.read(`${path}/physical-device`), undefined);
  assert.equal(boundLoops(host.dir).size, 0);
});

test(
  'a file that is deleted while attached stays attached, and goes with its guest',
  options,
  async () => {
    await using kit = await startVbdkit();
    const { host, vbdd } = kit;
    const file = rawFile(host, 'a.img');
    const guest = await host.createGuest({
      name: 'web',
      disks: [`${file},raw,xvda,rw,script=block-vbd`],
    });
    rmSync(file);
    const disk = await guest.disk('xvda');
    await disk.write(0, Buffer.alloc(512, 'x'));
    await guest.destroy();
    await vbdd.disks.settled();
    assert.equal(boundLoops(host.dir).size, 0);
  },
);
