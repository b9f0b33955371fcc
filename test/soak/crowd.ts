/**
 * A crowd of guests that come, do I/O that is checked, and go in every way, while vbdd, vbd-tap and
 * the store are killed under them; and the books at the end, as outsiders tell them.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Failure } from '../../src/base/failure.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { makeImage, spec } from '../daemon/tap-kit.ts';
import { startVbdd } from '../daemon/vbdd-process.ts';
import { startTestHost, type TestHost } from '../host/test-host.ts';
import { boundLoops } from '../sys/losetup.ts';
import { startTapProcess, type TapProcess } from '../tap/tap-process.ts';
import { type Load, startLoad } from '../tap/verified-load.ts';

/** Guests at a time, and between two things that happen. */
const MOST_GUESTS = 24;
const PACE_MS = 60;
const SETTLE_MS = 60_000;
/** What a process may have grown since the first minute. */
const GROWTH_MB = 96;

const formats: readonly ImageFormat[] = ['raw', 'vhd', 'vmdk', 'qcow2', 'vhdx'];

export interface CrowdReport {
  readonly guests: number;
  readonly requests: number;
  readonly kills: Readonly<Record<'vbdd' | 'tap' | 'store', number>>;
  /** Attaches that were refused while something was away. */
  readonly refused: number;
  /** What guests were told went wrong, or read wrong. */
  readonly lost: readonly string[];
  /** What is left when everyone has gone. */
  readonly leaks: readonly string[];
  readonly rssMb: Readonly<Record<'vbdd' | 'tap', number>>;
}

interface Member {
  readonly guest: Guest;
  readonly load: Load;
  readonly path: string;
}

interface Crowd {
  readonly host: TestHost;
  readonly tap: TapProcess;
  readonly random: () => number;
  readonly members: Member[];
  readonly lost: string[];
  readonly kills: { vbdd: number; tap: number; store: number };
  vbdd: ChildProcess;
  readonly startVbdd: () => Promise<ChildProcess>;
  guests: number;
  requests: number;
  refused: number;
}

/** Runs a crowd for so long. @param tell told how it goes, now and then */
export async function runCrowd(
  minutes: number,
  random: () => number,
  tell: (sentence: string) => void = () => {},
): Promise<CrowdReport> {
  await using stack = new AsyncDisposableStack();
  const tap = stack.use(await startTapProcess());
  const host = stack.use(await startTestHost({ guestsFolder: tap.guests }));
  const store = join(host.dir, 'xenstored');
  stack.use(await host.server.listen(store));
  const places = ['--store', store, '--sysfs', host.sysfsDir, '--tap', tap.socket];
  const start = (): Promise<ChildProcess> =>
    startVbdd([...places, '--socket', join(host.dir, 'vbdd.sock')]);
  const crowd: Crowd = {
    host,
    tap,
    random,
    members: [],
    lost: [],
    kills: { vbdd: 0, tap: 0, store: 0 },
    vbdd: await start(),
    startVbdd: start,
    guests: 0,
    requests: 0,
    refused: 0,
  };
  stack.defer(() => endVbdd(crowd, 'SIGTERM'));
  const fresh = { vbdd: heldBy(crowd.vbdd.pid), tap: heldBy(tap.pid) };
  const untilMs = performance.now() + minutes * 60_000;
  const first = await keepBusy(crowd, Math.min(untilMs, performance.now() + 60_000), tell);
  const last = performance.now() < untilMs ? await keepBusy(crowd, untilMs, tell) : first;
  await Promise.all(crowd.members.splice(0).map((member) => leave(crowd, member, 'shutdown')));
  const leaks = await leaksOf(crowd, fresh);
  for (const name of ['vbdd', 'tap'] as const) {
    const grown = last[name] - first[name];
    if (grown > GROWTH_MB) leaks.push(`${name} has grown by ${grown} MB since the first minute`);
  }
  const { guests, requests, kills, refused, lost } = crowd;
  return { guests, requests, kills, refused, lost, leaks, rssMb: last };
}

/** @returns the memory of both processes at the end of that time */
async function keepBusy(
  crowd: Crowd,
  untilMs: number,
  tell: (sentence: string) => void,
): Promise<CrowdReport['rssMb']> {
  const { random, members } = crowd;
  const comings = new Set<Promise<void>>();
  const begin = (work: Promise<void>): void => {
    const noted = work.finally(() => comings.delete(noted));
    comings.add(noted);
  };
  let toldMs = performance.now();
  while (performance.now() < untilMs) {
    await sleep(random() * PACE_MS);
    const what = random();
    if (what < 0.01) await killVbdd(crowd);
    else if (what < 0.02) await killTap(crowd);
    else if (what < 0.025) {
      // A toolstack at work would not survive it.
      await Promise.all(comings);
      await cutStore(crowd);
    } else if (what < 0.55 && members.length + comings.size < MOST_GUESTS) begin(come(crowd));
    else if (members.length > 0) {
      const [member] = members.splice(Math.floor(random() * members.length), 1);
      const how = (['shutdown', 'destroy', 'crash'] as const)[Math.floor(random() * 3)];
      if (member !== undefined) begin(leave(crowd, member, how ?? 'destroy'));
    }
    if (performance.now() - toldMs < 30_000) continue;
    toldMs = performance.now();
    tell(`${crowd.guests} guests, ${JSON.stringify(crowd.kills)} kills`);
  }
  await Promise.all(comings);
  return { vbdd: rssMb(crowd.vbdd.pid), tap: rssMb(crowd.tap.pid) };
}

async function come(crowd: Crowd): Promise<void> {
  const { host, random } = crowd;
  crowd.guests += 1;
  const name = `guest${crowd.guests}`;
  const format = formats[Math.floor(random() * formats.length)] ?? 'raw';
  const path = makeImage(host.dir, `${name}.img`, format);
  const onLoop = format === 'raw' && random() < 0.5;
  const disk = onLoop ? `vdev=xvda,script=block-vbd,target=${path}` : spec(format, path);
  try {
    const guest = await host.createGuest({ name, disks: [disk] });
    const load = startLoad(await guest.disk('xvda', SETTLE_MS), { depth: 2, random });
    crowd.members.push({ guest, load, path });
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    // vbdd or the tap was away for longer than a toolstack waits.
    crowd.refused += 1;
    for (const guest of host.guests()) if (guest.name === name) await guest.destroy();
  }
}

async function leave(
  crowd: Crowd,
  { guest, load, path }: Member,
  how: 'shutdown' | 'destroy' | 'crash',
): Promise<void> {
  if (how === 'shutdown') {
    const { errors, wrong } = await load.stop();
    crowd.lost.push(...errors, ...Array.from({ length: wrong }, () => `${path}: wrong bytes`));
  }
  crowd.requests += load.requests;
  load.abandon();
  if (how === 'shutdown') await guest.shutdown();
  else {
    if (how === 'crash') await guest.crash();
    await guest.destroy();
  }
  rmSync(path, { force: true });
}

async function endVbdd({ vbdd }: Crowd, signal: NodeJS.Signals): Promise<void> {
  if (vbdd.exitCode !== null || vbdd.signalCode !== null) return;
  vbdd.kill(signal);
  await once(vbdd, 'exit');
}

async function killVbdd(crowd: Crowd): Promise<void> {
  crowd.kills.vbdd += 1;
  await endVbdd(crowd, 'SIGKILL');
  crowd.vbdd = await crowd.startVbdd();
}

async function killTap(crowd: Crowd): Promise<void> {
  crowd.kills.tap += 1;
  await crowd.tap.killAndRestart();
}

async function cutStore(crowd: Crowd): Promise<void> {
  const { server } = crowd.host;
  crowd.kills.store += 1;
  server.goAway();
  await sleep(crowd.random() * 200);
  server.comeBack();
  // The embedded host has its connections again.
  await sleep(1000);
}

/** Everyone has gone: what is there still? */
async function leaksOf(
  crowd: Crowd,
  fresh: Readonly<Record<'vbdd' | 'tap', Holdings>>,
): Promise<string[]> {
  const { host, tap } = crowd;
  const look = async (): Promise<string[]> => {
    const leaks: string[] = [];
    const note = (what: string, count: number): void => {
      if (count > 0) leaks.push(`${count} ${what}`);
    };
    note('loop devices', boundLoops(host.dir).size);
    note('disks in the tap', (await tapDisks(tap)).length);
    for (const folder of ['rings', 'statistics', 'nbd']) {
      note(`files in ${folder}`, filesIn(join(tap.folder, folder)));
    }
    for (const [name, pid] of Object.entries({ vbdd: crowd.vbdd.pid, tap: tap.pid })) {
      const [now, then] = [heldBy(pid), fresh[name as keyof typeof fresh]];
      note(`descriptors of ${name}`, now.descriptors - then.descriptors);
      note(`mappings of ${name}`, now.mappings - then.mappings);
    }
    for (const path of ['/local/domain/0/backend/vbd', '/local/domain/0/backend/vbd3']) {
      note(`nodes in ${path}`, ((await host.store.directory(path)) ?? []).length);
    }
    note('domains', ((await host.store.directory('/local/domain')) ?? []).length - 1);
    return leaks;
  };
  const deadline = performance.now() + SETTLE_MS;
  for (;;) {
    const leaks = await look();
    if (leaks.length === 0 || performance.now() > deadline) return leaks;
    await sleep(200);
  }
}

async function tapDisks({ client }: TapProcess): Promise<object[]> {
  return (await client.call<{ disks: object[] }>('GET', '/v1/status')).disks;
}

function filesIn(folder: string): number {
  try {
    return readdirSync(folder).length;
  } catch {
    return 0;
  }
}

/** What a process has of others: open files, and memory that it shares, of guests, rings and statistics. */
interface Holdings {
  readonly descriptors: number;
  readonly mappings: number;
}

function heldBy(pid: number | undefined): Holdings {
  // proc_pid_maps(5): the fourth letter of the permissions says whether it is shared.
  const mappings = readFileSync(`/proc/${pid}/maps`, 'latin1').match(/^\S+ ...s /gm) ?? [];
  return { descriptors: readdirSync(`/proc/${pid}/fd`).length, mappings: mappings.length };
}

function rssMb(pid: number | undefined): number {
  const kb = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Math.round(Number(kb) / 1024);
}
