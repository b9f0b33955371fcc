/** What a run stands on: files, a real xenstored, vbdd beside it, the peers; all gone afterwards. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sleep } from '../../src/base/deadline.ts';
import { Failure } from '../../src/base/failure.ts';
import { vdevName, vdevNumber } from '../../src/disk/vdev.ts';
import { openStore } from '../../src/xenstore/open.ts';
import type { Store } from '../../src/xenstore/store.ts';
import { needs, needsLoop, needsProgram, type SkipOption } from '../../test/peers.ts';
import { needsXenstored, startXenstored } from '../../test/peers/xenstored.ts';
import { type Floor, startFloor } from './floor.ts';
import { backingFile, type GuestDisk } from './guest-disks.ts';
import {
  type BlockScript,
  blockScript,
  blockScriptPath,
  type Losetup,
  losetup,
} from './programs.ts';
import { storeTime } from './store-time.ts';
import { startVbdd, type Vbdd } from './vbdd.ts';

export interface Rig extends AsyncDisposable {
  readonly store: Store;
  readonly vbdd: Vbdd;
  readonly floor: Floor;
  readonly losetup: Losetup;
  readonly script: BlockScript;
  /** Processor time of xenstored so far, in ms. */
  readonly storeTimeMs: () => number;
  /** For what the tools write. */
  readonly folder: string;
  /** From 1 on; each has a file of its own. */
  disk(number: number): GuestDisk;
  /** Waits until no more than so many of the files are bound. @throws Failure when a loop device leaks */
  settled(bound: number): Promise<void>;
}

const FIRST_XVD = vdevNumber('xvda') ?? 0;
const FILE_BYTES = 2 ** 20;
/**
 * A file system in memory, as /run is on a Xen host. Binding a file has the kernel flush it: on a
 * disk, that disk would be measured.
 */
export const MEMORY = '/dev/shm';
const FLOOR_FILES = 16;
const RELEASE_TIMEOUT_MS = 10_000;
/** C xenstored takes seconds for the nodes of a hundred disks in one transaction. */
const STORE_TIMEOUT_MS = 60_000;

export interface RigSize {
  readonly disks: number;
  /** The disks are dealt out to them in turn. C xenstored is the slower the more there are. */
  readonly guests: number;
}

/** What of the peers this machine lacks. */
export function needsPeers(): SkipOption {
  const needed = [
    needsLoop(),
    needsProgram('losetup', 'chrt', 'strace', 'xenstore-read'),
    needsXenstored('xenstored'),
    needs(existsSync(blockScriptPath), 'no block script of xen-utils-common — run tools/peers.sh'),
  ];
  return needed.find(({ skip }) => skip !== false) ?? { skip: false };
}

/** @throws Failure of what is missing or cannot be started; then everything else is stopped again */
export async function startRig({ disks, guests }: RigSize): Promise<Rig> {
  const { skip: missing } = needsPeers();
  if (missing !== false) throw new Failure('unavailable', missing);
  await using stack = new AsyncDisposableStack();
  const folder = mkdtempSync(join(MEMORY, 'vbdkit-bench-'));
  stack.defer(() => rmSync(folder, { recursive: true, force: true }));
  stack.defer(() => detachLeftovers(folder));
  const fileOf = (number: number): string => diskOf(folder, number, guests).file;
  for (let number = 1; number <= disks + FLOOR_FILES; number++) makeFile(fileOf(number));

  const xenstored = stack.use(await startXenstored('xenstored'));
  const { socket } = xenstored;
  for (let domid = 1; domid <= guests; domid++) await xenstored.introduce(domid);
  const floorFiles = Array.from({ length: FLOOR_FILES }, (_, i) => fileOf(disks + 1 + i));
  const floor = stack.use(await startFloor(floorFiles));
  const script = stack.use(blockScript(socket));
  const vbdd = stack.use(await startVbdd(socket, folder));
  const store = stack.use(await openStore({ path: socket, timeoutMs: STORE_TIMEOUT_MS }));
  for (let i = 0; i < FLOOR_FILES; i++) await floor.passMs();
  goFirst();

  const owned = stack.move();
  return {
    store,
    vbdd,
    floor,
    losetup: losetup(),
    script,
    storeTimeMs: await storeTime(socket),
    folder,
    disk: (number) => diskOf(folder, number, guests),
    settled: (bound) => settled(folder, bound),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** One of the disks in a folder, from 1 on, dealt out to so many guests in turn. */
export function diskOf(folder: string, number: number, guests: number): GuestDisk {
  return {
    domid: 1 + ((number - 1) % guests),
    vdev: vdevName(FIRST_XVD + 16 * Math.floor((number - 1) / guests)),
    file: join(folder, `disk-${number}.img`),
  };
}

/**
 * From here on this process is woken before others: it reads the clock when something happens, not
 * when it gets its turn. What it starts runs like everything else.
 */
function goFirst(): void {
  execFileSync('chrt', ['--rr', '--reset-on-fork', '--pid', '1', String(process.pid)]);
}

function makeFile(path: string): void {
  writeFileSync(path, '');
  truncateSync(path, FILE_BYTES);
}

async function settled(folder: string, bound: number): Promise<void> {
  const untilMs = performance.now() + RELEASE_TIMEOUT_MS;
  while (boundBelow(folder).length > bound) {
    if (performance.now() > untilMs) {
      const left = boundBelow(folder).length - bound;
      throw new Failure(
        'io',
        `${left} loop devices are still bound after their disks were detached`,
      );
    }
    await sleep(2);
  }
}

/** The loop devices that are bound to files in that folder. */
function boundBelow(folder: string): string[] {
  return readdirSync('/sys/block').filter(
    (name) => name.startsWith('loop') && backingFile(name)?.startsWith(`${folder}/`),
  );
}

/** What an interrupted script has left bound. */
function detachLeftovers(folder: string): void {
  for (const name of boundBelow(folder)) execFileSync('losetup', ['--detach', `/dev/${name}`]);
}
