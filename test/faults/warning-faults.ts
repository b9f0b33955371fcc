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
    find: 'const wanted = diskBytes - file.allocatedBytes;',
    plant: 'const wanted = diskBytes;',
    caughtBy: 'test/daemon/low-room.test.ts',
    needsLoop: true,
  },
  {
    name: 'warning-outlives-its-disk',
    breaks: 'nobody is told of room for a disk that is given back',
    file: 'src/backend/carry-out.ts',
    find: '  record.lowRoom = undefined;\n',
    plant: '',
    caughtBy: 'test/daemon/low-room.test.ts',
    needsLoop: true,
  },
  {
    name: 'silent-without-xenstored',
    breaks: 'an admin is told that xenstored is away',
    file: 'src/daemon/metrics.ts',
    find: 'if (!(thrown instanceof Failure)) throw thrown;',
    plant: 'throw thrown;',
    caughtBy: 'test/daemon/metrics.test.ts',
    only: 'without xenstored',
    needsLoop: true,
  },
  {
    name: 'reopening-counted-as-attach',
    breaks: 'an attach is counted once, whatever is restarted',
    file: 'src/backend/ring-image.ts',
    find: 'if (known === undefined && !wasOffered(record)) record',
    plant: 'if (known === undefined) record',
    caughtBy: 'test/daemon/metrics.test.ts',
    only: 'no attach',
    needsLoop: true,
  },
];
