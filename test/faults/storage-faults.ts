/** Planted faults of disks on rings whose storage, room or descriptors fail. */
import type { Fault } from './faults.ts';

const table = { caughtBy: 'test/daemon/faults-doc.test.ts', needsLoop: true };
const onFuse = { ...table, needsFuse: true, programs: ['nbdfuse', 'nbdkit'] };

export const storageFaults: readonly Fault[] = [
  {
    ...table,
    name: 'shortage-ends-the-tap',
    breaks: 'an order that the kernel refuses fails by itself, and other disks of the tap go on',
    file: 'src/tap/order-failures.ts',
    find: 'const code = codeOf(thrown);',
    plant: 'const code = undefined;',
    only: 'of the tap: attach on a ring',
  },
  {
    ...table,
    name: 'full-run-folder-ends-the-tap',
    breaks: 'memory is mapped from files that have room for it',
    file: 'src/sys/file.ts',
    find: 'fallocate(fd, 0, 0, lengthBytes);',
    plant: '',
    only: 'no room in /run/vbdkit',
  },
  {
    ...table,
    name: 'full-tap-taken-for-gone',
    breaks: 'a tap that takes no order now has what it had',
    file: 'src/backend/ring-disk.ts',
    find: "thrown.kind !== 'unavailable' || tap.isThere) throw thrown;",
    plant: "thrown.kind !== 'unavailable') throw thrown;",
    only: 'of the tap: detach',
  },
  {
    ...table,
    name: 'full-tap-not-asked-again',
    breaks: 'what a tap could not take is asked of it again',
    file: 'src/backend/ring-disk.ts',
    find: "if (kind === 'timeout' || isFull) callSoon",
    plant: "if (kind === 'timeout') callSoon",
    only: 'of the tap: detach',
  },
  {
    ...table,
    name: 'pause-of-what-waits-for-room',
    breaks: 'who pauses a disk is told at once that it does not come to rest',
    file: 'src/daemon/pause.ts',
    find: 'if (paused) await requireRoom(tap, name, what);',
    plant: '',
    only: 'ENOSPC: pause',
  },
  {
    ...onFuse,
    name: 'loss-at-close-not-told',
    breaks: 'an admin is told what was lost when a disk was closed',
    file: 'src/backend/disk-record.ts',
    find: "if (fault !== undefined) log('error', fault, logFields(record));",
    plant: '',
    only: 'EIO: detach',
  },
  {
    ...onFuse,
    name: 'insert-not-tried-anew',
    breaks: 'a medium that could not be read is tried anew when it is inserted again',
    file: 'src/daemon/media.ts',
    find: 'if (ring.refused !== undefined) ring.params = undefined;',
    plant: '',
    only: 'EIO: insert',
  },
  {
    ...table,
    name: 'resized-untold',
    breaks: 'a disk whose guest cannot be told keeps its size',
    file: 'src/backend/ring-disk.ts',
    find: 'if (nodes === undefined) {\n    const advice',
    plant: 'if (nodes === null) {\n    const advice',
    only: 'backend directory deleted: resize',
  },
  {
    ...table,
    name: 'refused-by-io-uring-for-good',
    breaks: 'what io_uring has no memory for is asked of it again',
    file: 'src/sys/uring.ts',
    find: 'if (errno === EAGAIN || errno === EBUSY) return rings.inFlight === rings.added;',
    plant: '',
    only: 'takes nothing \\(EAGAIN\\): write',
  },
];
