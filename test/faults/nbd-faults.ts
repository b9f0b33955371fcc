/** Planted faults of images that blkback serves on nbd devices. */
import type { Fault } from './faults.ts';

const disks = { caughtBy: 'test/daemon/nbd-disks.test.ts', needsLoop: true };

export const nbdFaults: readonly Fault[] = [
  {
    ...disks,
    name: 'image-on-nbd-not-held-at-start',
    breaks: 'what a guest has on an nbd device is held when vbdd starts anew, tap or no tap',
    file: 'src/backend/nbd-disk.ts',
    find: 'nodes, place, number);\n  noteHolder(world, record, [member]);\n',
    plant: 'nodes, place, number);\n',
    only: 'and the tap is away',
  },
  {
    ...disks,
    name: 'parents-on-nbd-not-held-again',
    breaks: 'what a child on an nbd device is read from is held by the next vbdd, too',
    file: 'src/backend/nbd-disk.ts',
    find: '  holdAgain(world, record, facts, opened, vms);\n',
    plant: '',
    only: 'a parent is held',
  },
  {
    ...disks,
    name: 'image-stays-open-in-the-tap',
    programs: ['qemu-img', 'qemu-io'],
    breaks: 'an image is closed once its guest has let go of it',
    file: 'src/backend/carry-out.ts',
    find: '  if (held?.nbd !== undefined) await closeImage(world, record);\n',
    plant: '',
    only: 'a vmdk image reaches a guest',
  },
  {
    name: 'stranger-at-a-disks-socket',
    breaks: 'a disk is served by NBD to root alone',
    file: 'src/tap/disk-sockets.ts',
    find: 'return uid === 0 || uid === process.getuid?.();',
    plant: 'return uid >= 0;',
    caughtBy: 'test/tap/disk-sockets.test.ts',
    only: 'who is not root',
  },
  {
    name: 'nested-attribute-not-marked',
    breaks: 'messages for nbd are those of a C program',
    file: 'src/sys/netlink.ts',
    find: 'return { type: type | NLA_F_NESTED,',
    plant: 'return { type,',
    caughtBy: 'test/sys/netlink.test.ts',
    programs: ['gcc'],
    only: 'a C program',
  },
  {
    name: 'living-guests-device-disconnected',
    breaks: 'a guest whose tap is away keeps its device',
    file: 'src/disk/plan.ts',
    find: "do: gone ? 'sever' : 'reconnect'",
    plant: "do: gone ? 'reconnect' : 'sever'",
    caughtBy: 'test/disk/plan.test.ts',
  },
];
