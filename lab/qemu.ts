/** The emulated machine itself: QEMU's command line and its process. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from './config.ts';
import type { Images } from './images.ts';
import { lessWork } from './kernel-arguments.ts';
import { outside } from './outside.ts';
import { processOf, type Process } from './process.ts';

const xen = [
  'dom0_mem=1536M,max:1536M dom0_max_vcpus=1 com1=115200,8n1 console=com1',
  'loglvl=warning guest_loglvl=warning noreboot=1 bootscrub=0 spec-ctrl=no',
].join(' ');

/** A comma in a module's arguments would begin the next module. */
function moduleOption(text: string): string {
  return text.replaceAll(',', ',,');
}

function disk(id: string, path: string, options: string): string[] {
  const drive = `file=${moduleOption(path)},format=raw,if=none,id=${id},${options}`;
  return ['-drive', drive, '-device', `virtio-blk-pci,drive=${id}`];
}

/** What dom0 boots from, in place of an image that is as it was at the next boot. */
export interface RootDisk {
  /** Path of a whole disk. */
  readonly image: string;
  /** Where dom0's writes go. */
  readonly overlay: string;
  /** Where the order of its writes and flushes is kept (write-log.ts). */
  readonly log: string;
}

/** Every request of dom0 to its disk goes into the log; nothing waits for the outside's own disk. */
function recordedDisk({ overlay, log }: RootDisk): string[] {
  const [fast, path] = ['cache.no-flush=on', moduleOption];
  const file = `driver=qcow2,node-name=overlay,${fast},file.driver=file,file.filename=${path(overlay)}`;
  const record = `driver=blklogwrites,node-name=root,file=overlay,log.driver=file,log.filename=${path(log)}`;
  return ['-blockdev', file, '-blockdev', record, '-device', 'virtio-blk-pci,drive=root'];
}

async function makeRecorded({ image, overlay, log }: RootDisk): Promise<void> {
  await outside('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', image, '-F', 'raw', overlay]);
  await writeFile(log, '');
}

/**
 * One processor and no AVX: with more, or with -cpu max, guests beside dom0 saw registers and
 * memory go wrong under emulation. Nested paging is there for PVH and HVM guests.
 */
function commandLine(
  config: Config,
  images: Images,
  folder: string,
  recorded: RootDisk | undefined,
): string[] {
  const init = config.init === 'systemd' ? '/lib/systemd/systemd' : '/lab/init';
  const linux = [
    'console=hvc0 panic=-1 quiet loglevel=4 systemd.show_status=0',
    lessWork,
    `lab.root=/dev/vda lab.init=${init} lab.xenstored=${config.xenstored}`,
  ].join(' ');
  const modules = [
    `${moduleOption(join(images.boot, 'vmlinux'))} ${moduleOption(linux)}`,
    moduleOption(join(images.boot, 'dom0.cpio.gz')),
  ];
  const socket = (id: string): string => `socket,id=${id},path=${id}.sock,server=on,wait=off`;
  const share = `local,id=share,path=${moduleOption(join(folder, 'share'))},security_model=none`;
  return [
    ['-name', 'vbdkit-lab'],
    ['-machine', 'pc'],
    ['-accel', 'tcg,thread=multi'],
    ['-cpu', 'qemu64,+npt'],
    ['-smp', '1'],
    ['-m', '5120M'],
    ['-display', 'none'],
    ['-nodefaults'],
    ['-kernel', join(images.boot, 'xen')],
    ['-append', xen],
    ['-initrd', modules.join(',')],
    recorded === undefined
      ? disk('root', images.dom0, 'snapshot=on,cache=unsafe')
      : recordedDisk(recorded),
    disk('packages', images.packages, 'readonly=on,cache=unsafe'),
    disk('spare', join(folder, 'spare.img'), 'snapshot=on,cache=unsafe'),
    disk('driver', images.dom0, 'snapshot=on,cache=unsafe'),
    ['-fsdev', share, '-device', 'virtio-9p-pci,fsdev=share,mount_tag=share'],
    ['-serial', 'file:console.log'],
    ['-chardev', socket('agent'), '-serial', 'chardev:agent'],
    ['-device', 'virtio-serial-pci'],
    ['-chardev', socket('shell'), '-device', 'virtconsole,chardev=shell'],
    ['-chardev', socket('qmp'), '-mon', 'chardev=qmp,mode=control'],
  ].flat();
}

/**
 * Starts QEMU in `folder`, where its sockets, `console.log` and `qemu.log` then are.
 * @param owned true ends the machine with this process, however that ends
 * @param recorded dom0's disk, where what becomes of it is to be kept
 */
export async function startQemu(
  config: Config,
  images: Images,
  folder: string,
  owned: boolean,
  recorded?: RootDisk,
): Promise<Process> {
  if (recorded !== undefined) await makeRecorded(recorded);
  const spare = join(folder, 'spare.img');
  await writeFile(spare, '');
  await truncate(spare, 512 * 1024 * 1024);
  const log = openSync(join(folder, 'qemu.log'), 'w');
  const tied = ['--pdeathsig', 'KILL', 'qemu-system-x86_64'];
  const words = [
    ...(owned ? tied : tied.slice(2)),
    ...commandLine(config, images, folder, recorded),
  ];
  const child = spawn(owned ? 'setpriv' : 'qemu-system-x86_64', owned ? words : words.slice(1), {
    cwd: folder,
    detached: true,
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject));
  child.unref();
  return processOf(child.pid ?? 0);
}
