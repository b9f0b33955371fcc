/** Planted faults for what only qcow2 has: dirty bitmaps. */
import type { Fault } from './faults.ts';

const bitmaps = {
  file: 'src/image/qcow2/bitmaps.ts',
  caughtBy: 'test/nbd/bitmaps.test.ts',
  programs: ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'],
};

export const qcow2Faults: readonly Fault[] = [
  {
    ...bitmaps,
    name: 'qcow2-bitmap-not-in-use',
    breaks: 'a bitmap that missed changes says so',
    find: 'planFlags(image, stored, stored.flags | BitmapFlag.inUse, out);',
    plant: '',
    only: 'was killed',
  },
  {
    ...bitmaps,
    name: 'qcow2-bitmap-not-stored',
    breaks: 'what changed is in the bitmap after an orderly end',
    find: 'changed.add(Math.floor(byte / image.clusterBytes));',
    plant: '',
    only: 'what is written is dirty',
  },
];
