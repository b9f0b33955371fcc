/**
 * `vbd demo` (`npm start`): vbdkit at work on an embedded host. Guests, store and backend are
 * stand-ins; files, loop devices, reads and writes are this machine's own.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { formatMs } from '../../base/units.ts';
import type { Guest } from '../../host/embedded-host.ts';
import type { CliContext } from '../context.ts';
import { type DemoHost, startDemoHost } from '../demo-host.ts';
import { formatTable } from '../table.ts';
import { showImages } from './demo-images.ts';

const READERS = 50;
/** Where ext4 keeps its volume's name: superblock at byte 1024, `s_volume_name` at 0x78 in it. */
const LABEL_SECTOR = 2;
const LABEL_AT = 0x78;

type Row = [
  guest: string,
  disk: string,
  access: string,
  device: string,
  time: string,
  held: string,
];

export interface Show {
  readonly host: DemoHost;
  readonly dir: string;
  readonly rows: Row[];
  readonly say: (text: string) => void;
}

export const demoCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Show vbdkit at work on an embedded host; needs no Xen' },
  parameters: {
    flags: {
      page: {
        kind: 'parsed',
        parse: String,
        brief: 'Show guests at work on the web page there, until interrupted: 127.0.0.1:9548',
        placeholder: 'ADDRESS',
        optional: true,
      },
    },
  },
  async func(this: CliContext, { page }: { readonly page?: string }) {
    const say = (text: string): void => this.process.stdout.write(`${text}\n`);
    const dir = mkdtempSync(join(tmpdir(), 'vbdkit-demo-'));
    using _dir = { [Symbol.dispose]: () => rmSync(dir, { recursive: true }) };
    say('vbdkit on an embedded host: xenstore, guests and blkback are stand-ins,');
    say('files, images, loop devices and every byte read or written are real.\n');
    const rows: Row[] = [];
    if (page !== undefined) {
      const { showPage } = await import('./demo-page.ts');
      const enough = new AbortController();
      for (const signal of ['SIGINT', 'SIGTERM'] as const) {
        this.process.once(signal, () => enough.abort());
      }
      await using host = await startDemoHost(dir);
      return await showPage({ host, dir, address: page, say }, enough.signal);
    }
    {
      await using host = await startDemoHost(dir);
      const show = { host, dir, rows, say };
      if (host.noLoops === undefined) await play(show);
      else
        say(`no loop devices: ${host.noLoops.message}\nguests get images and files over rings\n`);
      await showImages(show);
    }
    proveNothingLeft(dir, say);
    say(
      `\n${formatTable(['Guest', 'Disk', 'Access', 'Device', 'Time to attach', 'Open to bound'], rows)}`,
    );
  },
});

async function play(show: Show): Promise<void> {
  const { host, dir, say } = show;
  const web = await showFileSystem(show);
  using device = deviceOn(file(dir, 'volume'));
  const database = await attach(show, 'database', `${device.path},raw,xvda,rw`);
  say(`a block device, ${device.path}, is guest database's xvda as it is: no loop device on top\n`);
  const readers = await showReaders(show);
  await showRefusals(show);
  await web.detach('xvda');
  say('web let go of its disk while it runs; the other guests are shut down or destroyed');
  await Promise.all([
    web.shutdown(),
    database.destroy(),
    ...readers.map((guest) => guest.destroy()),
  ]);
  await host.daemon.disks.settled();
  const label = execFileSync('e2label', [join(dir, 'web.img')], { encoding: 'utf8' }).trim();
  execFileSync('e2fsck', ['-fn', join(dir, 'web.img')], { stdio: 'pipe' });
  say(
    `e2label reads from the file what guest web wrote to its disk: «${label}»; e2fsck finds no fault`,
  );
}

/** A file with a file system, read-write: the guest reads what mke2fs wrote, and writes. */
async function showFileSystem(show: Show): Promise<Guest> {
  const { dir, say } = show;
  const content = join(dir, 'content');
  mkdirSync(content);
  writeFileSync(join(content, 'index.html'), '<h1>served from a raw file</h1>\n');
  const image = join(dir, 'web.img');
  const mke2fs = [
    '-q',
    '-t',
    'ext4',
    '-O',
    '^metadata_csum',
    '-L',
    'before',
    '-d',
    content,
    image,
    '16M',
  ];
  execFileSync('mke2fs', mke2fs);
  const web = await attach(show, 'web', `${image},raw,xvda,rw`);
  const disk = await web.disk('xvda');
  const superblock = Buffer.from(await disk.read(LABEL_SECTOR, 1));
  const before = superblock.toString('latin1', LABEL_AT, LABEL_AT + 6);
  superblock.write('written-by-web\0\0', LABEL_AT, 'latin1');
  await disk.write(LABEL_SECTOR, superblock);
  await disk.flush();
  say(
    `a raw file with ext4 on it is guest web's xvda; the guest reads the label «${before}», writes another`,
  );
  return web;
}

/** One read-only file for many guests at once: one loop device. */
async function showReaders(show: Show): Promise<Guest[]> {
  const { host, dir, say } = show;
  const image = file(dir, 'kernel.img');
  const before = host.daemon.world.loops.bound;
  const beganMs = performance.now();
  const names = Array.from({ length: READERS }, (_, index) => `reader${index + 1}`);
  const disks = [`${image},raw,xvdb,ro,script=block-vbd`];
  const guests = await Promise.all(names.map((name) => host.createGuest({ name, disks })));
  const timeMs = performance.now() - beganMs;
  const devices = host.daemon.world.loops.bound - before;
  say(
    `one read-only file is given to ${READERS} guests at once: ${devices} loop device for all of them`,
  );
  const { device, holdMs } = host.outcomeOf(guests[0]?.domid ?? 0, 'xvdb');
  const name = `reader1…${READERS}`;
  show.rows.push([
    name,
    'kernel.img',
    'r',
    device,
    `${formatMs(timeMs)} for all`,
    formatMs(holdMs),
  ]);
  return guests;
}

/** The official script would let all of these through: it compares numbers in different bases. */
async function showRefusals(show: Show): Promise<void> {
  const { host, dir, say } = show;
  const wanted = [`${join(dir, 'web.img')},raw,xvda,rw`, `${join(dir, 'kernel.img')},raw,xvda,rw`];
  say('');
  for (const disk of wanted) {
    const disks = [`${disk},script=block-vbd`];
    const refusal: unknown = await host.createGuest({ name: 'intruder', disks }).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    if (!(refusal instanceof Failure))
      throw new Error('a forbidden share was allowed', { cause: refusal });
    say(`refused: ${refusal.message}`);
  }
  say('');
}

/** Creates a guest with one disk and notes how long the disk took. */
async function attach(show: Show, name: string, spec: string): Promise<Guest> {
  const { host, rows } = show;
  const guest = await host.createGuest({ name });
  const beganMs = performance.now();
  await guest.attach(`${spec},script=block-vbd`);
  const timeMs = performance.now() - beganMs;
  const [path = '', , vdev = ''] = spec.split(',');
  const { device, holdMs } = host.outcomeOf(guest.domid, vdev);
  const disk = path.split('/').at(-1) ?? '';
  rows.push([name, disk, 'w', device, formatMs(timeMs), formatMs(holdMs)]);
  return guest;
}

/** A block device made by losetup, standing in for a logical volume. */
function deviceOn(path: string): { readonly path: string } & Disposable {
  const made = execFileSync('losetup', ['--find', '--show', path], { encoding: 'utf8' }).trim();
  return { path: made, [Symbol.dispose]: () => void execFileSync('losetup', ['--detach', made]) };
}

function file(dir: string, name: string): string {
  const path = join(dir, name);
  writeFileSync(path, Buffer.alloc(4 << 20));
  return path;
}

/** What losetup and the kernel say, not what we believe. */
function proveNothingLeft(dir: string, say: (text: string) => void): void {
  const listed = execFileSync('losetup', ['--list', '--noheadings', '--output', 'BACK-FILE'], {
    encoding: 'utf8',
  });
  const left = listed.split('\n').filter((line) => line.includes(dir));
  if (left.length > 0) throw new Error(`loop devices are left: ${left.join(', ')}`);
  const open = readFileSync('/proc/self/mountinfo', 'utf8').includes(dir);
  if (open) throw new Error(`something below ${dir} is still mounted`);
  say('losetup --list shows no loop device on any of these files any more');
}
