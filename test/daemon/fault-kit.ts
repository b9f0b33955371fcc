/** One host with its tap for many faults of disks on rings, and what is looked for after each. */
import assert from 'node:assert/strict';
import type { Guest } from '../../src/host/embedded-host.ts';
import type { GuestDisk } from '../../src/host/guest-disk.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import type { SkipOption } from '../peers.ts';
import type { Outcome } from './faults-of-rings.ts';
import { startTapKit, type TapKit } from './tap-kit.ts';

export type Row = readonly [name: string, play: () => Promise<Outcome>, options: SkipOption];
export type Named = [name: string, scenario: { options: SkipOption; play(): Promise<Outcome> }];

export const drive = 'backendtype=tap,vdev=xvda,devtype=cdrom,script=block-vbd,target=';
export const page = new Uint8Array(4096).fill(7);

let started: Promise<TapKit> | undefined;

/** One host with its tap for all of these: each leaves it as it was, or takes it along. */
export function theKit(): Promise<TapKit> {
  started ??= startTapKit();
  return started;
}

/** Ends what the scenarios have started. */
export async function endFaultKit(): Promise<void> {
  const kit = await started;
  started = undefined;
  await kit?.[Symbol.asyncDispose]();
}

/** What is said is what an admin reads; then nothing of it is left. */
export async function refused(
  kit: TapKit,
  work: Promise<unknown>,
  sentence: RegExp,
): Promise<Outcome> {
  const openBefore = (await kit.opened()).length;
  await assert.rejects(work, sentence);
  assert.equal((await kit.opened()).length, openBefore, 'something of it is left');
  return 'refused';
}

export async function nothingLeft(kit: TapKit): Promise<void> {
  await kit.vbdd.disks.settled();
  assert.deepEqual([(await kit.opened()).length, kit.vbdd.disks.records.size], [0, 0]);
}

export interface Played {
  readonly kit: TapKit;
  readonly guest: Guest;
  readonly disk: GuestDisk;
}

/** A guest with that disk, and nothing left of it afterwards. */
export async function withDisk(
  disk: string,
  play: (played: Played) => Promise<Outcome>,
): Promise<Outcome> {
  const kit = await theKit();
  const guest = await kit.host.createGuest({ name: 'web', disks: [disk] });
  const outcome = await play({ kit, guest, disk: await guest.disk('xvda') });
  await guest.destroy();
  await nothingLeft(kit);
  return outcome;
}

let images = 0;

/** A new image in the host's folder. */
export function image(kit: TapKit, format: ImageFormat): string {
  images += 1;
  return kit.image(`${images}.${format}`, format);
}

/** A scenario that fails takes the host along: it may not be as it was. */
async function played(play: () => Promise<Outcome>): Promise<Outcome> {
  try {
    return await play();
  } catch (thrown) {
    await endFaultKit();
    throw thrown;
  }
}

export function scenariosOf(rows: readonly Row[]): Named[] {
  return rows.map(([name, play, options]) => [name, { options, play: () => played(play) }]);
}
