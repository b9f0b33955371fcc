/** The hosts that the lab can boot: which Debian, which Xen, which packages and modules are in dom0. */

export interface Suite {
  readonly xen: string;
  /** In dom0 beside minbase. */
  readonly packages: readonly string[];
  /** Kernel modules of dom0, each with what it depends on; those the kernel lacks are left out. */
  readonly modules: readonly string[];
}

const packages = [
  'xen-utils-common',
  'xenstore-utils',
  'qemu-system-xen',
  'grub-xen-host',
  'busybox-static',
  'dbus',
  'dmsetup',
  'e2fsprogs',
  'iproute2',
  'kmod',
  'procps',
  'strace',
  'systemd',
  'systemd-sysv',
  'udev',
  'util-linux',
];

const modules = [
  'virtio_pci virtio_blk virtio_console 9pnet_virtio 9p ext4 binfmt_misc autofs4',
  'xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xen-blkback xen-blkfront xen-acpi-processor',
  'loop nbd fuse dm-mod dm-snapshot brd null_blk ublk_drv tun',
]
  .join(' ')
  .split(' ');

export const suites = {
  bookworm: { xen: '4.17', packages: ['xen-utils-4.17', ...packages], modules },
  trixie: { xen: '4.20', packages: ['xen-utils-4.20', ...packages], modules },
} as const satisfies Record<string, Suite>;

export type SuiteName = keyof typeof suites;
