/** The part of `vbd demo` that needs no loop device: images, served by vbd-tap over guests' rings. */
import { join } from 'node:path';
import { sleep, within } from '../../base/deadline.ts';
import { formatMs } from '../../base/units.ts';
import { createFileTable } from '../../image/file-table.ts';
import type { ImageFormat } from '../../image/formats.ts';
import { createImage, openImage } from '../../image/open.ts';
import { createTransfer } from '../../image/transfer.ts';
import type { DemoHost } from '../demo-host.ts';
import type { Show } from './demo.ts';

const SIZE_BYTES = 64 << 20;
/** What a guest writes into each image, and where: across blocks, and not at the start of one. */
const WRITE_BYTES = 3 << 20;
const WRITE_SECTOR = 12_345;
const SECTOR_BYTES = 512;
const CLOSE_MS = 10_000;

/** A VHD, a VMDK and a raw file for a guest each: written, read, and read again from the files. */
export async function showImages({ host, dir, rows, say }: Show): Promise<void> {
  for (const format of ['vhd', 'vmdk', 'raw'] as const) {
    const name = `disk.${format}`;
    const path = makeImage(join(dir, name), format);
    const guest = await host.createGuest({ name: `guest-${format}` });
    const beganMs = performance.now();
    const words = 'backendtype=tap,format=vhd,vdev=xvda,script=block-vbd';
    await guest.attach(`${words},target=${format}:${path}`);
    const timeMs = performance.now() - beganMs;
    const disk = await guest.disk('xvda');
    const written = Uint8Array.from({ length: WRITE_BYTES }, (_, i) => (i * 31 + (i >> 9)) & 0xff);
    await disk.write(WRITE_SECTOR, written);
    await disk.flush();
    const read = await disk.read(WRITE_SECTOR, WRITE_BYTES / SECTOR_BYTES);
    requireSame(read, written, `what ${guest.name} reads from its ring`);
    await guest.shutdown();
    await within(CLOSE_MS, name, (signal) => closed(host, guest.domid, signal));
    requireSame(readImage(path, format), written, `what ${name} holds`);
    rows.push([guest.name, name, 'w', 'its ring', formatMs(timeMs), '-']);
  }
  say('');
  say(
    'a VHD, a VMDK and a raw file are served over guests’ rings by vbd-tap, with no device at all;',
  );
  say('each guest read back what it wrote, and so did we from the closed images');
}

/** vbdd learns of a guest's end a moment after its toolstack. */
async function closed({ daemon }: DemoHost, domid: number, signal: AbortSignal): Promise<void> {
  while ([...daemon.disks.records.values()].some(({ key }) => key.domid === domid)) {
    await sleep(5, signal);
  }
}

function makeImage(path: string, format: ImageFormat): string {
  using files = createFileTable();
  createImage(path, { format, sizeBytes: SIZE_BYTES, options: {}, files });
  return path;
}

function readImage(path: string, format: ImageFormat): Uint8Array {
  using files = createFileTable();
  using image = openImage(path, { format, writable: false, files });
  const bytes = new Uint8Array(WRITE_BYTES);
  createTransfer(files).read(image, bytes, WRITE_SECTOR * SECTOR_BYTES);
  return bytes;
}

function requireSame(found: Uint8Array, expected: Uint8Array, what: string): void {
  if (Buffer.compare(found, expected) !== 0) throw new Error(`${what} is not what was written`);
}
