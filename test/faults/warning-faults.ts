/** Planted faults of what admins are warned of. */
import type { Fault } from './faults.ts';

export const warningFaults: readonly Fault[] = [
  {
    name: 'room-not-looked-at',
    breaks: 'an admin is warned before a disk that the kernel serves has no room',
    file: 'src/daemon/low-room.ts',
    find: 'if (left >= wanted * margin ||',
    plant: 'if (left >= 0 ||',
    caughtBy: 'test/daemon/low-room.test.ts',
    needsLoop: true,
  },
  {
    name: 'full-file-warned-of',
    breaks: 'nobody is warned of a file that has all its room already',
    file: 'src/daemon/low-room.ts',
    find: 'const wanted = diskBytes - Number(file.blocks) * 512;',
    plant: 'const wanted = diskBytes;',
    caughtBy: 'test/daemon/low-room.test.ts',
    needsLoop: true,
  },
];
