/** Planted faults for what only qcow2 has: dirty bitmaps, encryption. */
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
    find: 'planFlags(image, stored, stored.flags | BitmapFlag.inUse, out);\n  }\n}\n\nfunction',
    plant: '}\n}\n\nfunction',
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
  {
    name: 'luks-one-sector-for-all',
    breaks: 'each sector is encrypted by its own place',
    file: 'src/image/crypt/crypt-bytes.ts',
    find: 'known().encrypt(view, at / SECTOR);',
    plant: 'known().encrypt(view, 0);',
    caughtBy: 'test/image/luks-suite.test.ts',
    only: 'any program',
  },
  {
    name: 'luks-rest-not-written',
    breaks: 'the rest of a new encrypted cluster reads as zeros',
    file: 'src/image/qcow2/write.ts',
    find: '&& !image.isExternal && !image.isEncrypted;',
    plant: '&& !image.isExternal;',
    caughtBy: 'test/image/luks.test.ts',
    only: 'not in its file',
  },
];
