/** Want of room, of descriptors and of memory, met by what an admin asks of disks on rings. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { changeMedium } from '../../src/daemon/media.ts';
import { pause } from '../../src/daemon/pause.ts';
import { resize } from '../../src/daemon/verbs.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { needsLoop } from '../peers.ts';
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
import { makeImage, SIZE_BYTES, spec, type TapKit } from './tap-kit.ts';
import { XVDA } from './test-daemon.ts';

interface SmallSystem extends Disposable {
  readonly folder: string;
  fill(): void;
  grow(): void;
}

/** A file system with little room. */
function smallSystem(folder: string): SmallSystem {
  mkdirSync(folder, { recursive: true });
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1M', 'vbdkit-test', folder]);
  return {
    folder,
    fill() {
      try {
        writeFileSync(join(folder, 'filler'), new Uint8Array(1 << 20));
      } catch (thrown) {
        assert.match(String(thrown), /ENOSPC/);
      }
    },
    grow: () => void execFileSync('mount', ['-o', 'remount,size=16M', folder]),
    [Symbol.dispose]: () => void execFileSync('umount', ['--lazy', folder]),
  };
}

async function withoutRoom(
  format: ImageFormat,
  play: (played: Played, system: SmallSystem) => Promise<Outcome>,
): Promise<Outcome> {
  const kit = await theKit();
  using system = smallSystem(join(kit.host.dir, 'small'));
  const path = makeImage(system.folder, 'a.img', format);
  system.fill();
  return await withDisk(spec(format, path), (played) => play(played, system));
}

const fullResize = (): Promise<Outcome> =>
  withoutRoom('qcow2', async ({ kit, disk }, system) => {
    // Its table of tables is larger than the room that is left.
    const resizing = resize(kit.vbdd, 'web', 'xvda', 2 ** 46);
    await refused(kit, resizing, /could not be resized: there is no room \(ENOSPC\) — make room/);
    assert.equal(disk.description.sectors, SIZE_BYTES / 512);
    system.grow();
    assert.equal(await resize(kit.vbdd, 'web', 'xvda', 2 ** 46), 2 ** 46);
    return 'refused';
  });

/** A write that waits for room. */
async function waitingWrite({ kit, disk }: Played): Promise<{ ended: Promise<string> }> {
  const ended = disk.write(0, new Uint8Array(1 << 20).fill(7)).then(
    () => 'done',
    () => 'error',
  );
  await until('it waits', async () => {
    const [opened] = (await kit.opened()) as { paused: string | null }[];
    return opened?.paused === 'ENOSPC';
  });
  return { ended };
}

const fullDetach = (): Promise<Outcome> =>
  withoutRoom('raw', async (played) => {
    const { kit, guest } = played;
    await waitingWrite(played);
    await guest.detach('xvda');
    await nothingLeft(kit);
    return 'done';
  });

const fullPause = (): Promise<Outcome> =>
  withoutRoom('raw', async (played, system) => {
    const { kit } = played;
    const { ended } = await waitingWrite(played);
    await refused(kit, pause(kit.vbdd, 'web', 'xvda', true), /wait for room \(ENOSPC\).*— make/);
    system.grow();
    assert.equal(await ended, 'done');
    return 'refused';
  });

/** The folder in which a tap keeps what a successor needs. */
const fullRunFolder = async (): Promise<Outcome> => {
  const kit = await theKit();
  return withDisk(spec('raw', image(kit, 'raw')), async ({ disk }) => {
    using system = smallSystem(join(kit.tap.folder, 'statistics'));
    system.fill();
    const disks = [spec('raw', image(kit, 'raw'))];
    const creating = kit.host.createGuest({ name: 'db', disks });
    await refused(kit, creating, /there is no room in .*statistics — make some/);
    await disk.write(0, page);
    return 'refused';
  });
};

/** Leaves a process so many descriptors, once those of connections that have ended are closed. */
async function leaveDescriptors(pid: number, count: number): Promise<void> {
  for (let before = -1; ;) {
    const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
    let limit = 0;
    for (let left = count; open.has(limit) || left > 0; limit++) if (!open.has(limit)) left -= 1;
    if (limit === before) return;
    execFileSync('prlimit', ['--pid', String(pid), `--nofile=${limit}:4096`]);
    before = limit;
    await sleep(20);
  }
}

function giveDescriptors(pid: number): void {
  execFileSync('prlimit', ['--pid', String(pid), '--nofile=4096:4096']);
}

/** Why a guest has no disk: it was not created, or goes without it. */
async function whyRefused(kit: TapKit, creating: Promise<Guest>): Promise<string> {
  const guest = await creating.catch((thrown: unknown) => String(thrown));
  if (typeof guest === 'string') return guest;
  let why: string | undefined;
  await until('it is refused', () => {
    const all = [...kit.vbdd.disks.records.values()];
    why = all.find(({ key }) => key.domid === guest.domid)?.refusal?.message;
    return why !== undefined;
  });
  giveDescriptors(kit.tap.pid);
  await guest.destroy();
  await kit.vbdd.disks.settled();
  return why ?? '';
}

/** As many as take the order to open an image, and then the next ones. */
const fullTapAttach = async (): Promise<Outcome> => {
  const kit = await theKit();
  return withDisk(spec('raw', image(kit, 'raw')), async ({ disk }) => {
    const disks = [spec('qcow2', image(kit, 'qcow2'))];
    for (const count of [1, 2, 3]) {
      await leaveDescriptors(kit.tap.pid, count);
      const why = await whyRefused(kit, kit.host.createGuest({ name: 'db', disks }));
      await disk.write(0, page);
      giveDescriptors(kit.tap.pid);
      assert.match(why, /vbd-tap has no descriptor left — raise its LimitNOFILE/);
      assert.equal((await kit.opened()).length, 1);
    }
    return 'refused';
  });
};

const fullTapWrite = async (): Promise<Outcome> => {
  const kit = await theKit();
  return withDisk(spec('qcow2', image(kit, 'qcow2')), async ({ disk }) => {
    await leaveDescriptors(kit.tap.pid, 0);
    await disk.write(0, page);
    await disk.flush();
    assert.deepEqual(await disk.read(0, 8), page);
    giveDescriptors(kit.tap.pid);
    return 'done';
  });
};

/** @param isNew the vbdd that is to let go of the disk has not heard its tap yet */
const fullTapDetach = (isNew: boolean) => async (): Promise<Outcome> => {
  const kit = await theKit();
  return withDisk(spec('raw', image(kit, 'raw')), async ({ guest }) => {
    if (isNew) await kit.restart(() => leaveDescriptors(kit.tap.pid, 0));
    else await leaveDescriptors(kit.tap.pid, 0);
    const before = kit.vbdd.lines.length;
    const detached = guest.detach('xvda').then(() => 'done' as const);
    const tries = (): number =>
      kit.vbdd.lines.slice(before).filter((line) => /vbd-tap does not answer/.test(line)).length;
    const asked = until('it is asked again', () => tries() > 1).then(() => 'waits' as const);
    const first = await Promise.race([detached, asked]);
    giveDescriptors(kit.tap.pid);
    await detached;
    await nothingLeft(kit);
    return first;
  });
};

/** The next kernel of a guest's domain offers a ring of its own, whose record takes a descriptor. */
const fullTapNextRing = async (): Promise<Outcome> => {
  const kit = await theKit();
  return withDisk(spec('raw', image(kit, 'raw')), async ({ guest, disk }) => {
    await disk.write(0, page);
    const { blkfront } = kit.host.machine.kernel(guest.domid);
    const [record] = kit.vbdd.disks.records.values();
    await blkfront.shutdown();
    await until('it is let go of', () => record?.nodes?.state === 6);
    await leaveDescriptors(kit.tap.pid, 1);
    const said = (): boolean =>
      kit.vbdd.lines.some((line) => /waits for its image: vbd-tap has no descriptor/.test(line));
    const read = blkfront.restart(XVDA).then(async () => (await guest.disk('xvda')).read(0, 8));
    await until('it waits', said);
    giveDescriptors(kit.tap.pid);
    assert.deepEqual(await read, page);
    return 'waits';
  });
};

const fullTapInsert = async (): Promise<Outcome> => {
  const kit = await theKit();
  const medium = image(kit, 'raw');
  return withDisk(drive, async ({ disk }) => {
    const insert = (): Promise<void> => changeMedium(kit.vbdd, 0, 'web', 'xvda', medium);
    await leaveDescriptors(kit.tap.pid, 1);
    const sentence = await insert().then(() => 'inserted', String);
    giveDescriptors(kit.tap.pid);
    assert.match(sentence, /vbd-tap has no descriptor left/);
    assert.equal(disk.description.sectors, 0);
    return 'refused';
  });
};

/** The address space of the tap is as large as it may be. */
const withoutMemory = async (): Promise<Outcome> => {
  const kit = await theKit();
  return withDisk(spec('qcow2', image(kit, 'qcow2')), async ({ disk }) => {
    const limit = (bytes: string): void =>
      void execFileSync('prlimit', ['--pid', String(kit.tap.pid), `--as=${bytes}`]);
    limit('1:unlimited');
    await disk.write(0, page);
    assert.deepEqual(await disk.read(0, 8), page);
    limit('unlimited:unlimited');
    return 'done';
  });
};

const root = needsLoop();

export const shortageFault: readonly Named[] = scenariosOf([
  ['ENOSPC: resize', fullResize, root],
  ['ENOSPC: detach', fullDetach, root],
  ['ENOSPC: pause', fullPause, root],
  ['no room in /run/vbdkit: attach on a ring', fullRunFolder, root],
  ['a full table of descriptors, of the tap: attach on a ring', fullTapAttach, root],
  ['a full table of descriptors, of the tap: write', fullTapWrite, root],
  ['a full table of descriptors, of the tap: detach', fullTapDetach(false), root],
  ['a full table of descriptors, of the tap: start of vbdd', fullTapDetach(true), root],
  ['a full table of descriptors, of the tap: next ring of a guest', fullTapNextRing, root],
  ['a full table of descriptors, of the tap: insert', fullTapInsert, root],
  ['no memory for a mapping: write', withoutMemory, root],
]);
