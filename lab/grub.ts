/** GRUB as a guest: a block frontend that neither Linux nor vbdkit wrote. */
import type { GuestConfig } from './guest.ts';
import type { Lab } from './step.ts';

/** The GRUBs of Debian's grub-xen-host: a 64-bit PV guest, and a 32-bit PVH guest. */
const grubs = {
  pv64: { type: 'pv', kernel: '/usr/lib/grub-xen/grub-x86_64-xen.bin' },
  pvh32: { type: 'pvh', kernel: '/usr/lib/grub-xen/grub-i386-xen_pvh.bin' },
} as const satisfies Record<string, GuestConfig>;

export type GrubName = keyof typeof grubs;

/**
 * Makes a disk that GRUB reads: an ext2 file system with this grub.cfg, and files by their paths.
 * @param files from paths in dom0 to paths on the disk
 */
export async function makeGrubDisk(
  { dom0 }: Lab,
  path: string,
  configuration: string,
  files: Readonly<Record<string, string>> = {},
): Promise<void> {
  await dom0.put('/tmp/grub/boot/grub/grub.cfg', configuration);
  const copies = Object.entries(files).map(([from, to]) => `install -D ${from} /tmp/grub${to}`);
  await dom0.run([...copies, `mke2fs -q -t ext2 -d /tmp/grub ${path} 128M`].join(' && '));
  await dom0.run('rm -r /tmp/grub');
}

/** The least of all guests, which is made and never runs: for who gets a disk, and who does not. */
export function idleGuest(...disks: string[]): GuestConfig {
  return { ...grubs.pv64, disks, paused: true, memoryMb: 16 };
}

/** The config of a guest that is this GRUB. */
export function grubGuest(name: GrubName, disks: readonly string[]): GuestConfig {
  return { ...grubs[name], disks, memoryMb: 256 };
}
