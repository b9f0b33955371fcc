/** `npm run screenshots`: the pictures of the web page in docs/screenshots, from guests of an embedded host that are at work. */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createFileTable } from '../src/image/file-table.ts';
import { createImage } from '../src/image/open.ts';
import type { Guest } from '../src/host/embedded-host.ts';
import { home } from '../src/sys/home.ts';
import { openBrowser, startPageKit } from '../test/page/page-kit.ts';

const SIZE_BYTES = 64 << 20;
const WORK_MS = 25_000;
const folder = join(home, 'docs', 'screenshots');

await using own = await startPageKit();
const { host } = own.kit;
const ring = 'backendtype=tap,format=vhd,script=block-vbd';

function image(name: string, backing?: string): string {
  using files = createFileTable();
  const path = join(host.dir, name);
  const made =
    backing === undefined
      ? { sizeBytes: SIZE_BYTES }
      : { backing: { path: backing, format: 'qcow2' as const } };
  createImage(path, { format: 'qcow2', options: {}, files, ...made });
  return path;
}

function raw(name: string): string {
  const path = join(host.dir, name);
  writeFileSync(path, '');
  truncateSync(path, SIZE_BYTES);
  return path;
}

/** Fills parts of the guest's xvda: every `gap` bytes as many as `length`. */
async function fill(guest: Guest, gap: number, length: number): Promise<void> {
  const disk = await guest.disk('xvda');
  for (let at = 0; at + length <= SIZE_BYTES; at += gap) {
    await disk.write(at / 512, new Uint8Array(length).fill(7));
  }
}

const base = image('debian-13.qcow2');
const installer = await host.createGuest({ name: 'installer' });
await installer.attach(`${ring},vdev=xvda,target=qcow2:${base}`);
await fill(installer, 6 << 20, 4 << 20);
await installer.shutdown();
await own.kit.vbdd.disks.settled();

const workers: Guest[] = [];
for (const name of ['web', 'database', 'build']) {
  const guest = await host.createGuest({ name });
  await guest.attach(`${ring},vdev=xvda,target=qcow2:${image(`${name}.qcow2`, base)}`);
  await fill(guest, 9 << 20, 1 << 20);
  workers.push(guest);
}
const [web, database] = workers;
const data = raw('data.img');
await database?.attach(`vdev=xvdb,script=block-vbd,target=${data}`);
// The second writer of one file: refused, and the page says why.
await web?.attach(`vdev=xvdb,script=block-vbd,target=${data}`).catch(() => {});
const cdrom = raw('debian-13.iso');
for (const guest of workers) {
  await guest.attach(`vdev=xvdc,access=ro,script=block-vbd,target=${cdrom}`);
}

const endMs = performance.now() + WORK_MS;
async function work(guest: Guest, restMs: number, share: number): Promise<void> {
  const disk = await guest.disk('xvda');
  for (let round = 0; performance.now() < endMs; round++) {
    const sector = (round * 616) % (SIZE_BYTES / 512 - 256);
    if (round % 10 < share) await disk.read(sector, 128);
    else await disk.write(sector, new Uint8Array(16 << 10).fill(round));
    await sleep(restMs * (1 + Math.sin(round / 9) / 2));
  }
}
const working = workers.map((guest, index) => work(guest, 6 + index * 8, 3 + index * 2));

await using browser = await openBrowser();
mkdirSync(folder, { recursive: true });
const shots = [
  { name: 'guests', colorScheme: 'light', hash: '#/', width: 900, height: 760 },
  {
    name: 'disk',
    colorScheme: 'dark',
    hash: `#/disk/${web?.domid}/51712`,
    width: 900,
    height: 1060,
  },
  { name: 'telephone', colorScheme: 'light', hash: '#/chains', width: 360, height: 560 },
] as const;
const pages = await Promise.all(
  shots.map(async ({ colorScheme, hash, width, height }) => {
    const page = await browser.newPage({ colorScheme, viewport: { width, height } });
    await page.goto(`${own.address}/${hash}`);
    return page;
  }),
);
await Promise.all(working);
for (const [index, page] of pages.entries()) {
  // What is in a folder of this moment is shown as an admin has it.
  await page.evaluate(`{
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      texts.currentNode.data = texts.currentNode.data.replaceAll(${JSON.stringify(host.dir)}, '/srv');
    }
  }`);
  await page.screenshot({ path: join(folder, `${shots[index]?.name}.png`) });
}
