/**
 * `npm run lab -- cuts`: power cuts of a whole host. Everything that dom0 writes to its disk while a
 * guest writes to images of every format is recorded, the disk is rebuilt as it was at random
 * moments, and that is booted: what the guest had flushed is there.
 */
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Failure } from '../src/base/failure.ts';
import { seeded } from '../test/fuzz/seeded.ts';
import { cacheDir, nameOf, type Config } from './config.ts';
import { diskSpec, formatNames, formats, withCopies } from './disks.ts';
import { collect } from './evidence.ts';
import type { Guest } from './guest.ts';
import { carryIn, labOf, tidyUp } from './host.ts';
import { images } from './images.ts';
import { bringUp, isUp, takeDown, type Machine, type Storage } from './machine.ts';
import { outside } from './outside.ts';
import { say } from './say.ts';
import type { Lab } from './step.ts';
import { serveBy, startTap } from './vbdkit.ts';
import { keptAt, type LoggedRequest, readWriteLog, replay } from './write-log.ts';

const MiB = 1024 * 1024;
const QUARTER = MiB / 4;
/** Beneath it the guest writes what it flushes and is looked for, above it what nobody waits for. */
const LOUD_AT = 32 * MiB;
const recordedSeconds = 40;

const each = formatNames.map((format, index) => ({
  format,
  path: `/d/cut.${format}`,
  vdev: `xvd${String.fromCharCode(97 + index)}`,
  number: index,
}));

/** What the guest was told is on its disk, and how long dom0's log was by then. */
interface Flushed {
  readonly vdev: string;
  readonly seed: number;
  readonly at: number;
  readonly logBytes: number;
}

interface Recording {
  readonly flushed: readonly Flushed[];
  /** Before that the images were not there yet. */
  readonly firstBytes: number;
}

export interface CutOptions {
  readonly cuts: number;
  readonly seed: number;
}

/** Records once, cuts `cuts` times, prints a last line of JSON. @throws Failure io when something was lost */
export async function runCuts(
  config: Config,
  { cuts, seed }: CutOptions,
  signal: AbortSignal,
): Promise<void> {
  if (isUp(config)) {
    const what = `${nameOf(config)} is up, and cuts want a host of their own`;
    throw new Failure('in-use', `${what} — end it with npm run lab -- down`);
  }
  say(`seed ${seed}`);
  const folder = join(cacheDir, `cuts-${nameOf(config)}`);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  try {
    const { dom0: image } = await images(config.suite);
    const [overlay, log] = [join(folder, 'overlay'), join(folder, 'log')];
    const recorded = { image, overlay, log };
    const recording = await onHost(config, signal, { recorded }, (lab) => record(lab, log));
    const requests = await readWriteLog(log);
    say(`${requests.length} requests of dom0's disk, ${recording.flushed.length} flushes answered`);
    const chance = seeded(seed);
    const first = requests.findIndex(({ loggedAt }) => loggedAt > recording.firstBytes);
    let found = 0;
    for (let number = 1; number <= cuts; number++) {
      const end = first + Math.floor(chance() * (requests.length - first));
      const kept = keptAt(requests, end, chance);
      const dom0 = join(folder, 'cut');
      await outside('cp', ['--sparse=always', image, dom0]);
      await replay(kept, log, dom0);
      const known = knownAt(recording, requests, end);
      say(`cut ${number} of ${cuts}: before request ${end}, ${known.length} flushes must be there`);
      await onHost(config, signal, { dom0 }, (lab) => look(lab, known));
      found += known.length;
    }
    const line = { lab: 'cuts', seed, cuts, requests: requests.length, flushes_found: found };
    console.log(JSON.stringify(line));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs `work` on a host of its own, with vbdkit in place, that ends as if its plug were pulled. */
async function onHost<T>(
  config: Config,
  signal: AbortSignal,
  storage: Storage,
  work: (lab: Lab) => Promise<T>,
): Promise<T> {
  try {
    using machine = await bringUp(config, true, signal, storage);
    if (storage.recorded !== undefined) await prepare(machine);
    const lab = labOf(machine);
    await serveBy(lab, 'vbdkit');
    await startTap(lab);
    return await work(lab).catch(async (thrown: unknown) => {
      say(`evidence: ${await collect(machine, 'power cut', String(thrown))}`);
      throw thrown;
    });
  } finally {
    await takeDown(config);
  }
}

async function prepare(machine: Machine): Promise<void> {
  await carryIn(machine);
  await tidyUp(machine);
}

async function record(lab: Lab, log: string): Promise<Recording> {
  const logBytes = async (): Promise<number> => (await stat(log)).size;
  for (const { format, path } of each) await lab.dom0.run(`vbd create -f ${format} ${path} 64M`);
  await lab.dom0.run('sync');
  const firstBytes = await logBytes();
  const guest = await createGuest(lab);
  const flushed: Flushed[] = [];
  const over = new AbortController();
  const loud = Promise.all(
    each.map(({ vdev, number }) =>
      guest.stress(vdev, 100 + number, {
        at: LOUD_AT,
        length: 16 * MiB,
        seconds: recordedSeconds,
        workers: 1,
      }),
    ),
  ).finally(() => over.abort());
  for (let at = 0; !over.signal.aborted && at < LOUD_AT; at += QUARTER) {
    for (const { vdev, number } of each) {
      const seed = 10 + number;
      await guest.fill(vdev, seed, { at, length: QUARTER });
      flushed.push({ vdev, seed, at, logBytes: await logBytes() });
    }
  }
  await loud;
  return { flushed, firstBytes };
}

/** One disk after the other: under emulation all at once may take them longer than libxl waits. */
async function createGuest({ guests, dom0 }: Lab): Promise<Guest> {
  const guest = await guests.create();
  for (const { format, path, vdev } of each) {
    await dom0.run(`xl block-attach ${guest.name} ${diskSpec(format, path, vdev)}`);
    await guest.awaitDisk(vdev);
  }
  return guest;
}

/** What was answered by the time of a request, with all that the log held by then. */
function knownAt(
  { flushed }: Recording,
  requests: readonly LoggedRequest[],
  end: number,
): Flushed[] {
  const cutBytes = requests[end]?.loggedAt ?? Infinity;
  return flushed.filter(({ logBytes }) => logBytes < cutBytes);
}

/** As an admin would after the power has come back: guests are created again, and images checked. */
async function look(lab: Lab, known: readonly Flushed[]): Promise<void> {
  const guest = await createGuest(lab);
  for (const { vdev, seed, at } of known) await guest.verify(vdev, seed, { at, length: QUARTER });
  await guest.end('poweroff');
  await guest.gone();
  for (const { format, path } of each) {
    if (format === 'raw') continue;
    // 3: room that nothing uses, which a cut may leave.
    await lab.dom0.run(`vbd check -f ${format} ${path} || [ $? = 3 ]`, { timeoutMs: 300_000 });
  }
  const judged = each.filter(({ format }) => ['vmdk', 'qcow2', 'vhdx'].includes(format));
  await withCopies(
    lab.dom0,
    judged.map(({ path }) => path),
    async (copies) => {
      for (const [index, copy] of copies.entries()) {
        const { format = 'raw' } = judged[index] ?? {};
        await outside('sh', [
          '-c',
          `qemu-img check -q -f ${formats[format]} ${copy} || [ $? = 3 ]`,
        ]);
      }
    },
  );
}
