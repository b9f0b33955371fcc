/** CD-ROM drives that the tap serves: what is in them comes and goes while their guest runs. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '../patience.ts';
import { changeMedium } from '../../src/daemon/media.ts';
import { needsLoop } from '../peers.ts';
import { SIZE_BYTES, spec, startTapKit } from './tap-kit.ts';
import { XVDA } from './test-daemon.ts';

const options = needsLoop();

test('a CD-ROM is told as one, and is read only', options, async () => {
  await using kit = await startTapKit();
  const path = kit.image('a.iso', 'raw');
  const disks = [spec('raw', path, ',devtype=cdrom')];
  const guest = await kit.host.createGuest({ name: 'web', disks });
  const disk = await guest.disk('xvda');
  assert.equal(disk.description.readOnly, true);
  const info = await kit.host.store.read(`/local/domain/0/backend/vbd3/1/${XVDA}/info`);
  assert.equal(info, '7');
  await guest.destroy();
});

test('a medium is taken out of a guest’s drive, and another put in', options, async () => {
  await using kit = await startTapKit();
  const [one, two] = ['one.iso', 'two.vmdk'].map((name) => join(kit.host.dir, name));
  assert.ok(one !== undefined && two !== undefined);
  writeFileSync(one, Buffer.alloc(1 << 20, 1));
  kit.image('two.vmdk', 'vmdk');
  const drive = 'backendtype=tap,vdev=xvdd,devtype=cdrom,script=block-vbd';
  const guest = await kit.host.createGuest({ name: 'web', disks: [`${drive},target=`] });
  const disk = await guest.disk('xvdd');
  const hasSectors = (sectors: number): Promise<void> =>
    until(`the drive has ${sectors} sectors`, () => disk.description.sectors === sectors);
  await hasSectors(0);
  await assert.rejects(disk.read(0, 1));
  const change = (target?: string): Promise<void> =>
    changeMedium(kit.vbdd, 0, 'web', 'xvdd', target);
  await change(one);
  await hasSectors(2048);
  assert.deepEqual([...(await disk.read(2047, 1))], Array(512).fill(1));
  // Nobody writes what is in it.
  const other = kit.host.createGuest({ name: 'db', disks: [spec('raw', one)] });
  await assert.rejects(other, /one\.iso is in use by guest web \(domid 1\) as xvdd for reading — /);
  // What was asked before is answered from what was there, or not at all.
  const reads = Array.from({ length: 40 }, (_, i) => disk.read(i, 1).catch(() => undefined));
  await change();
  for (const read of await Promise.all(reads)) {
    if (read !== undefined) assert.deepEqual([...read], Array(512).fill(1));
  }
  await hasSectors(0);
  // What was taken out is nobody's.
  await (await kit.host.createGuest({ name: 'db', disks: [spec('raw', one)] })).destroy();
  await change(`vmdk:${two}`);
  await hasSectors(SIZE_BYTES / 512);
  assert.deepEqual([...(await disk.read(0, 1))], Array(512).fill(0));
  await assert.rejects(change(`${one}.none`), /one\.iso\.none does not exist — /);
  await hasSectors(0);
  await assert.rejects(change('one.iso'), /one\.iso is no image — give FORMAT:\/PATH/);
  // While no vbdd and no tap are there, a toolstack may change it, too.
  const backend = '/local/domain/0/backend/vbd3/1/51760/params';
  await kit.restart(async () => {
    await kit.tap.kill();
    await kit.host.store.write(backend, `aio:${one}`);
    await kit.tap.restart();
  });
  await hasSectors(2048);
  assert.deepEqual([...(await disk.read(0, 1))], Array(512).fill(1));
  await assert.rejects(changeMedium(kit.vbdd, 0, 'web', 'xvda', one), /has no disk xvda/);
  await guest.shutdown();
  await kit.vbdd.disks.settled();
  assert.deepEqual(await kit.opened(), []);
  assert.equal(kit.vbdd.disks.records.size, 0);
});
