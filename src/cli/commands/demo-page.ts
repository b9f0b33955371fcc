/** The part of `vbd demo` that stays: guests at work, and the web page that shows them. */
import { join } from 'node:path';
import { sleep } from '../../base/deadline.ts';
import { Failure } from '../../base/failure.ts';
import { loadConfig } from '../../daemon/config.ts';
import { serveApi } from '../../daemon/serve-api.ts';
import type { Guest } from '../../host/embedded-host.ts';
import { createFileTable } from '../../image/file-table.ts';
import { createImage } from '../../image/open.ts';
import { readVersion } from '../../sys/home.ts';
import type { DemoHost } from '../demo-host.ts';

const SIZE_BYTES = 256 << 20;
const SECTORS = SIZE_BYTES / 512;
/** What a guest moves at a time, and how far the next time is from there. */
const PIECE_BYTES = 64 << 10;
const STEP_SECTORS = 3 * 616;
const NAMES = ['web', 'database', 'build'];
const RING = 'backendtype=tap,format=vhd,vdev=xvda,script=block-vbd';

export interface PageShow {
  readonly host: DemoHost;
  readonly dir: string;
  /** `127.0.0.1:9548`. */
  readonly address: string;
  readonly say: (text: string) => void;
}

/**
 * Three guests on children of one image, and the page, until `signal`.
 * @throws Failure unavailable: there is no listening there
 */
export async function showPage(
  { host, dir, address, say }: PageShow,
  signal: AbortSignal,
): Promise<void> {
  const said: string[] = [];
  const daemon = {
    ...host.daemon,
    world: {
      ...host.daemon.world,
      log: (_: string, sentence: string): void => void said.push(sentence),
    },
  };
  const socket = join(dir, 'vbdd.sock');
  const config = loadConfig('/dev/null', { socket, page_listen: address });
  const parts = { tap: undefined, version: readVersion(), xl: undefined, ownDomid: 0 };
  await using _api = await serveApi({ daemon, config, ...parts });
  const told = said.find((sentence) => sentence.startsWith('the page is at'));
  if (told === undefined) throw new Failure('unavailable', said.join('; '));
  const guests = await makeGuests(host, dir);
  say(`\n${told} until you press Ctrl-C`);
  say(`vbd shows the same guests with VBDKIT_SOCKET=${socket}`);
  await Promise.all(guests.map((guest, index) => work(guest, 5 * (index + 1), signal)));
  await Promise.all(guests.map((guest) => guest.destroy()));
  await host.daemon.disks.settled();
}

async function makeGuests(host: DemoHost, dir: string): Promise<Guest[]> {
  const base = join(dir, 'base.qcow2');
  const backing = { path: base, format: 'qcow2' } as const;
  using files = createFileTable();
  createImage(base, { format: 'qcow2', sizeBytes: SIZE_BYTES, options: {}, files });
  const guests: Guest[] = [];
  for (const name of NAMES) {
    const path = join(dir, `${name}.qcow2`);
    createImage(path, { format: 'qcow2', backing, options: {}, files });
    const guest = await host.createGuest({ name });
    await guest.attach(`${RING},target=qcow2:${path}`);
    guests.push(guest);
  }
  return guests;
}

/** Reads and writes, now more and now less, until it is told to end. */
async function work(guest: Guest, restMs: number, signal: AbortSignal): Promise<void> {
  const disk = await guest.disk('xvda');
  const bytes = new Uint8Array(PIECE_BYTES).fill(7);
  for (let round = 0; !signal.aborted; round++) {
    const sector = (round * STEP_SECTORS) % (SECTORS - PIECE_BYTES / 512);
    if (round % 3 === 0) await disk.write(sector, bytes);
    else await disk.read(sector, PIECE_BYTES / 512);
    await sleep(restMs * (1.5 + Math.sin(round / 40)), signal).catch(() => {});
  }
}
