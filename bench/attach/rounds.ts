/** The measurements: every peer in turn, a few attaches each, round after round. */
import { sleep } from '../../src/base/deadline.ts';
import type { GuestDisk } from './guest-disks.ts';
import { countLoopCalls } from './loop-calls.ts';
import type { Rig } from './rig.ts';
import {
  background,
  burstThroughVbdd,
  detach,
  throughLosetup,
  throughScripts,
  throughVbdd,
} from './through.ts';

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

/** Times of all of a burst together, in ms. */
export interface Bursts {
  readonly vbdd: number[];
  /** Of it, xenstored's processor time. */
  readonly store: number[];
  readonly script: number[];
}

export interface Measured {
  /** By the number of disks that were there. */
  readonly single: ReadonlyMap<number, Times>;
  readonly bursts: Bursts;
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
  const bursts: Bursts = { vbdd: [], store: [], script: [] };
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
      for (const disk of guests.slice(0, counts.vbdd)) await besideFloor(rig, disk, there, times);
      for (const disk of guests.slice(0, counts.losetup)) {
        times.losetup.push(await throughLosetup(rig, disk));
      }
      for (const disk of guests.slice(0, counts.script)) {
        times.script.push(await throughScripts(rig, [disk], tell));
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
    const { tookMs, storeMs } = await burstThroughVbdd(rig, burst);
    bursts.vbdd.push(tookMs);
    bursts.store.push(storeMs);
    await detach(rig, burst, 0);
    bursts.script.push(await throughScripts(rig, burst, tell));
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
  for (const disk of disks) await besideFloor(rig, disk, 0, times);
  return times.vbdd[0] ?? NaN;
}

/** One attach through vbdd, and at once one pass of the floor. */
async function besideFloor(rig: Rig, disk: GuestDisk, there: number, times: Times): Promise<void> {
  times.vbdd.push(await throughVbdd(rig, [disk]));
  times.floor.push(await rig.floor.passMs());
  times.hold.push(await rig.vbdd.holdMs(disk));
  await detach(rig, [disk], there);
}

/** What vbdd has still to ask after an attach is asked within this time. */
const AFTERMATH_MS = 100;

async function oneByOne(rig: Rig, disks: readonly GuestDisk[]): Promise<void> {
  for (const disk of disks) await throughVbdd(rig, [disk]);
  await sleep(AFTERMATH_MS);
}

async function roundTripsOf(rig: Rig, disks: readonly GuestDisk[], there: number): Promise<number> {
  const before = await rig.vbdd.storeRoundTrips();
  await oneByOne(rig, disks);
  const after = await rig.vbdd.storeRoundTrips();
  await detach(rig, disks, there);
  return (after - before) / disks.length;
}

async function loopCallsOf(rig: Rig, disks: readonly GuestDisk[], there: number): Promise<number> {
  const calls = await countLoopCalls(rig.vbdd.pid, rig.folder, () => oneByOne(rig, disks));
  await detach(rig, disks, there);
  return calls / disks.length;
}
