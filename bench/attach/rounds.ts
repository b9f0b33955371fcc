/** The measurements: every peer in turn, a few attaches each, round after round. */
import { sleep } from '../../src/base/deadline.ts';
import {
  checkConnected,
  closeDisks,
  type GuestDisk,
  removeDisks,
  watchOutcomes,
  writeDisks,
} from './guest-disks.ts';
import { countLoopCalls } from './loop-calls.ts';
import type { Rig } from './rig.ts';

/** How much of what is measured. */
export interface Counts {
  readonly rounds: number;
  /** How many disks are attached already, through vbdd: three figures, from none to many. */
  readonly there: readonly number[];
  /** Attaches of each peer in each round and beside each of those. */
  readonly vbdd: number;
  readonly losetup: number;
  readonly script: number;
  /** Attaches at once, in this many of the rounds. */
  readonly atOnce: number;
  readonly bursts: number;
  /** Attaches over which round trips and system calls are counted. */
  readonly counted: number;
  /** Attaches and floor passes before anything is measured. */
  readonly warming: number;
}

/** Times of single attaches, in ms. */
export interface Times {
  /** From the commit of the nodes to `hotplug-status`. */
  readonly vbdd: number[];
  /** Of it, from opening the target to a configured device. */
  readonly hold: number[];
  readonly floor: number[];
  readonly losetup: number[];
  readonly script: number[];
}

export interface Measured {
  /** By the number of disks that were there. */
  readonly single: ReadonlyMap<number, Times>;
  /** Times of all of a burst together, in ms. */
  readonly bursts: { readonly vbdd: number[]; readonly script: number[] };
  /** The first attach of a fresh vbdd, in ms. */
  readonly firstMs: number;
  /** Per attach, with none and with most disks there. */
  readonly roundTrips: readonly number[];
  readonly loopCalls: readonly number[];
  /** The largest that was seen of vbdd with most disks there. */
  readonly rssBytes: number;
}

/** How many files the measurements need. */
export function disksFor(counts: Counts): number {
  return most(counts) + guestsFor(counts);
}

function most({ there }: Counts): number {
  return Math.max(...there);
}

function guestsFor({ vbdd, atOnce, counted, warming }: Counts): number {
  return Math.max(vbdd, atOnce, counted, warming);
}

/** Runs all rounds. `tell` is told what is done. */
export async function measure(
  rig: Rig,
  counts: Counts,
  tell: (progress: string) => void,
  signal: AbortSignal,
): Promise<Measured> {
  const single = new Map(counts.there.map((there) => [there, noTimes()]));
  const bursts = { vbdd: [] as number[], script: [] as number[] };
  const guests = Array.from({ length: guestsFor(counts) }, (_, i) =>
    rig.disk(most(counts) + 1 + i),
  );
  const roundTrips: number[] = [];
  const loopCalls: number[] = [];
  let rssBytes = 0;

  const cold = await warmUp(rig, guests.slice(0, counts.warming));
  for (let round = 0; round < counts.rounds; round++) {
    for (const [there, times] of single) {
      signal.throwIfAborted();
      tell(`round ${round + 1} of ${counts.rounds}, ${there} disks there`);
      await using _background = await background(rig, there);
      for (const disk of guests.slice(0, counts.vbdd)) await throughVbdd(rig, disk, there, times);
      for (const disk of guests.slice(0, counts.losetup)) await throughLosetup(rig, disk, times);
      for (const disk of guests.slice(0, counts.script)) {
        times.script.push(await throughScripts(rig, [disk]));
      }
      await rig.settled(there);
      const last = round === counts.rounds - 1;
      if (last && (there === 0 || there === most(counts))) {
        const counted = guests.slice(0, counts.counted);
        roundTrips.push(await roundTripsOf(rig, counted, there));
        loopCalls.push(await loopCallsOf(rig, counted, there));
      }
      if (there === most(counts)) rssBytes = Math.max(rssBytes, rig.vbdd.rssBytes());
    }
    if (round >= counts.bursts) continue;
    signal.throwIfAborted();
    tell(`round ${round + 1} of ${counts.rounds}, ${counts.atOnce} attaches at once`);
    const burst = guests.slice(0, counts.atOnce);
    bursts.vbdd.push(await allThroughVbdd(rig, burst));
    await detachAll(rig, burst, 0);
    bursts.script.push(await throughScripts(rig, burst));
    await rig.settled(0);
  }
  return { single, bursts, firstMs: cold, roundTrips, loopCalls, rssBytes };
}

function noTimes(): Times {
  return { vbdd: [], hold: [], floor: [], losetup: [], script: [] };
}

/** The first attach, which is cold, and then so many that what comes is not; the first one's time in ms. */
async function warmUp(rig: Rig, disks: readonly GuestDisk[]): Promise<number> {
  const times = noTimes();
  for (const disk of disks) await throughVbdd(rig, disk, 0, times);
  return times.vbdd[0] ?? NaN;
}

/** One transaction of all would take C xenstored minutes. */
const BACKGROUND_BATCH = 10;

/** So many other disks, attached through vbdd until disposal. */
async function background(rig: Rig, there: number): Promise<AsyncDisposable> {
  const disks = Array.from({ length: there }, (_, i) => rig.disk(1 + i));
  for (let at = 0; at < there; at += BACKGROUND_BATCH) {
    await allThroughVbdd(rig, disks.slice(at, at + BACKGROUND_BATCH));
  }
  return { [Symbol.asyncDispose]: () => detachAll(rig, disks, 0) };
}

/** All at once through vbdd; from the commit to the last one's outcome, in ms. */
async function allThroughVbdd(rig: Rig, disks: readonly GuestDisk[]): Promise<number> {
  await using outcomes = await watchOutcomes(rig.store, disks);
  const beganMs = await writeDisks(rig.store, disks, 'block-vbd');
  return (await outcomes.connected()) - beganMs;
}

async function detachAll(rig: Rig, disks: readonly GuestDisk[], there: number): Promise<void> {
  await closeDisks(rig.store, disks);
  await rig.settled(there);
  await removeDisks(rig.store, disks);
}

/** One attach through vbdd, and beside it one pass of the floor. */
async function throughVbdd(rig: Rig, disk: GuestDisk, there: number, times: Times): Promise<void> {
  times.vbdd.push(await allThroughVbdd(rig, [disk]));
  times.floor.push(rig.floor.passMs());
  times.hold.push(await rig.vbdd.holdMs(disk));
  await detachAll(rig, [disk], there);
}

async function throughLosetup(rig: Rig, disk: GuestDisk, times: Times): Promise<void> {
  const beganMs = performance.now();
  const device = await rig.losetup.attach(disk.file);
  times.losetup.push(performance.now() - beganMs);
  await rig.losetup.detach(device);
}

/** The scripts of these disks, started together; from the commit to the end of the last, in ms. */
async function throughScripts(rig: Rig, disks: readonly GuestDisk[]): Promise<number> {
  return rig.vbdd.paused(async () => {
    const beganMs = await writeDisks(rig.store, disks, 'block');
    const ended = await Promise.allSettled(disks.map((disk) => rig.script.add(disk)));
    const tookMs = performance.now() - beganMs;
    // What a script says of a failure is in the store.
    await checkConnected(rig.store, disks);
    for (const end of ended) if (end.status === 'rejected') throw end.reason;
    await Promise.all(disks.map((disk) => rig.script.remove(disk)));
    await removeDisks(rig.store, disks);
    return tookMs;
  });
}

/** What vbdd has still to ask after an attach is asked within this time. */
const AFTERMATH_MS = 100;

async function oneByOne(rig: Rig, disks: readonly GuestDisk[]): Promise<void> {
  for (const disk of disks) await allThroughVbdd(rig, [disk]);
  await sleep(AFTERMATH_MS);
}

async function roundTripsOf(rig: Rig, disks: readonly GuestDisk[], there: number): Promise<number> {
  const before = await rig.vbdd.storeRoundTrips();
  await oneByOne(rig, disks);
  const after = await rig.vbdd.storeRoundTrips();
  await detachAll(rig, disks, there);
  return (after - before) / disks.length;
}

async function loopCallsOf(rig: Rig, disks: readonly GuestDisk[], there: number): Promise<number> {
  const calls = await countLoopCalls(rig.vbdd.pid, rig.folder, () => oneByOne(rig, disks));
  await detachAll(rig, disks, there);
  return calls / disks.length;
}
