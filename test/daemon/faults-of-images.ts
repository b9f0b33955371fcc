/** Storage that fails or does not answer, met by what an admin asks of disks on rings. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { changeMedium } from '../../src/daemon/media.ts';
import { pause } from '../../src/daemon/pause.ts';
import { resize } from '../../src/daemon/verbs.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { type FaultyFile, faultyFile } from '../tap/faulty-file.ts';
import { bindLoop, needsSlowDevice, slowDevice } from '../tap/slow-device.ts';
import {
  drive,
  image,
  type Named,
  nothingLeft,
  page,
  type Played,
  refused,
  scenariosOf,
  theKit,
  withDisk,
} from './fault-kit.ts';
import { until } from '../patience.ts';
import type { Outcome } from './faults-of-rings.ts';
import { SIZE_BYTES, spec, type TapKit } from './tap-kit.ts';

async function onFaultyFile(
  format: ImageFormat,
  play: (file: FaultyFile, kit: TapKit) => Promise<Outcome>,
): Promise<Outcome> {
  const kit = await theKit();
  using file = faultyFile(image(kit, format));
  return await play(file, kit);
}

const unreadableAttach = (): Promise<Outcome> =>
  onFaultyFile('qcow2', async (file, kit) => {
    file.fail('read');
    const disks = [spec('qcow2', file.path)];
    const creating = kit.host.createGuest({ name: 'web', disks });
    await refused(kit, creating, /cannot read .*: EIO/);
    await nothingLeft(kit);
    file.mend();
    return withDisk(spec('qcow2', file.path), async () => 'refused');
  });

/** What was written is in the cache of a device, which cannot keep it: it is closed all the same. */
const unwritableDetach = (): Promise<Outcome> =>
  onFaultyFile('raw', async (file, kit) => {
    const { path, fd } = bindLoop(file.path);
    using _device = fd;
    const guest = await kit.host.createGuest({ name: 'web', disks: [spec('raw', path)] });
    file.fail('write');
    await (await guest.disk('xvda')).write(0, page);
    await guest.detach('xvda');
    await nothingLeft(kit);
    assert.match(kit.vbdd.lines.join('\n'), /may be lost: cannot flush .*: EIO/);
    file.mend();
    await guest.destroy();
    return 'done';
  });

/** A tap that is stopped flushes; its successor goes on with what there is. */
const unwritableStop = (): Promise<Outcome> =>
  onFaultyFile('raw', async (file, kit) => {
    const { path, fd } = bindLoop(file.path);
    using _device = fd;
    return await withDisk(spec('raw', path), async ({ disk }) => {
      file.fail('write');
      await disk.write(0, page);
      const { said } = kit.tap;
      await kit.tap.restart();
      await until('it is said', () => /may be lost: cannot flush .*: EIO/.test(said.join('\n')));
      file.mend();
      await disk.write(0, page);
      return 'done';
    });
  });

const unwritableResize = (): Promise<Outcome> =>
  onFaultyFile('qcow2', (file) =>
    withDisk(spec('qcow2', file.path), async ({ kit, disk }) => {
      file.fail('write');
      const resizing = resize(kit.vbdd, 'web', 'xvda', 2 * SIZE_BYTES);
      await refused(kit, resizing, /disk\.img could not be resized: EIO/);
      file.mend();
      assert.equal(disk.description.sectors, SIZE_BYTES / 512);
      assert.deepEqual(await disk.read(0, 8), new Uint8Array(4096));
      return 'refused';
    }),
  );

/** A drive keeps nothing of what cannot be read. */
const unreadableInsert = (): Promise<Outcome> =>
  onFaultyFile('qcow2', (file) =>
    withDisk(drive, async ({ kit, disk }) => {
      const insert = (): Promise<void> =>
        changeMedium(kit.vbdd, 0, 'web', 'xvda', `qcow2:${file.path}`);
      file.fail('read');
      await refused(kit, insert(), /cannot read .*: EIO/);
      assert.equal(disk.description.sectors, 0);
      file.mend();
      await insert();
      await until('the guest learns of it', () => disk.description.sectors === SIZE_BYTES / 512);
      return 'refused';
    }),
  );

/** A successor of the tap finds an image that cannot be read. */
const unreadableTakeUp = (): Promise<Outcome> =>
  onFaultyFile('qcow2', (file) =>
    withDisk(spec('qcow2', file.path), async ({ kit, disk }) => {
      file.fail('read');
      await kit.tap.killAndRestart();
      const read = disk.read(0, 8);
      const said = (): boolean => kit.vbdd.lines.some((line) => /waits for its image/.test(line));
      await until('it is said', said);
      const first = await Promise.race([read.then(() => 'done' as const), soon('waits')]);
      file.mend();
      assert.deepEqual(await read, new Uint8Array(4096));
      return first;
    }),
  );

async function soon(outcome: Outcome): Promise<Outcome> {
  await sleep(50);
  return outcome;
}

/** A guest lets go of a disk, an admin pauses it: what is under way ends first. */
const silent = (ask: (played: Played) => Promise<unknown>) => async (): Promise<Outcome> => {
  using device = slowDevice();
  return await withDisk(spec('raw', device.path), async (played) => {
    const { disk } = played;
    // Before the write: at any time afterwards the kernel may take it to the device.
    device.freeze();
    using _thawed = { [Symbol.dispose]: () => device.thaw() };
    // A guest that lets go of the disk meanwhile asks no more for it.
    const written = disk.write(0, page).then(() => disk.flush());
    written.catch(() => {});
    await until('the flush is with the device', () => device.underWay() > 0);
    const asked = ask(played).then(() => 'done' as const);
    const first = await Promise.race([asked, soon('waits')]);
    device.thaw();
    await asked;
    return first;
  });
};

const needed = needsSlowDevice();

export const imageFault: readonly Named[] = scenariosOf([
  ['EIO: attach', unreadableAttach, needed],
  ['EIO: detach', unwritableDetach, needed],
  ['EIO: stop of vbd-tap', unwritableStop, needed],
  ['EIO: resize', unwritableResize, needed],
  ['EIO: insert', unreadableInsert, needed],
  ['EIO: start of vbd-tap', unreadableTakeUp, needed],
  ['a device that does not answer: detach', silent(({ guest }) => guest.detach('xvda')), needed],
  [
    'a device that does not answer: pause',
    silent(({ kit }) => pause(kit.vbdd, 'web', 'xvda', true)),
    needed,
  ],
]);
