/** Planted faults for the engine's promises: order among pending requests, ends of files, flushes. */
import type { Fault } from './faults.ts';

const caughtBy = 'test/image/engine.test.ts';
const write = 'src/image/engine-write.ts';
const operations = 'src/image/engine-operations.ts';

const short = { file: operations, caughtBy: 'test/image/engine-operations.test.ts' };

export const engineFaults: readonly Fault[] = [
  {
    ...short,
    name: 'short-write-answered-as-whole',
    breaks: 'a write is answered when all of it is in the file',
    find: 'if (operation.doneBytes + count < operation.lengthBytes) request.errno = EIO;',
    plant: 'if (count === 0) request.errno = EIO;',
  },
  {
    ...short,
    name: 'short-write-goes-on-within-a-sector',
    breaks: 'what is left of a direct write begins where a sector does',
    find: 'operation.doneBytes = whole;',
    plant: 'operation.doneBytes = done;',
  },
  {
    name: 'rest-of-a-short-write-forgotten',
    breaks: 'what a call left of a write is written, too',
    file: 'src/image/engine-calls.ts',
    find: '    if (count === 0) return -EIO;\n    if (count > 0) done += count;',
    plant: '    if (count === 0) return -EIO;\n    if (count > 0) done = lengthBytes;',
    caughtBy: 'test/daemon/faults-doc.test.ts',
    only: 'at a time',
  },
  {
    name: 'freed-beside-reader',
    breaks: 'a cluster is freed when nobody reads it any more',
    file: write,
    find: 'if ((desk.traffic.get(image)?.moving ?? 0) > 0) return waitAlone(desk, request);',
    plant: '',
    caughtBy,
    only: 'a freed cluster',
  },
  {
    name: 'first-read-in-memory',
    breaks: 'a file in memory, of which the kernel says so at its first read, is read at once then',
    file: 'src/image/engine-read.ts',
    find: "if (way.manner === 'plain') {\n    count",
    plant: "else if (way.manner === 'plain') {\n    count",
    caughtBy,
    only: 'the first read',
  },
  {
    name: 'turn-ignored',
    breaks: 'who comes after a change of the image waits for it',
    file: write,
    find: 'if (waitsForTurn(desk, request)) return;\n    const { steps } = desk;',
    plant: 'const { steps } = desk;',
    caughtBy,
    only: 'smaller only after it',
  },
  {
    name: 'short-file-not-zeroed',
    breaks: 'what is past the end of a file reads as zeros',
    file: operations,
    find: 'if (there < wantedBytes) view.fill(0, offset + there, offset + wantedBytes);',
    plant: '',
    caughtBy,
    only: 'a file that ends early',
  },
  {
    name: 'sector-of-4k-misread',
    breaks: 'a sector within a larger one is read from its own place',
    file: operations,
    find: 'const from = room + skipBytes;',
    plant: 'const from = room;',
    caughtBy,
    only: 'small sectors on a device',
  },
  {
    name: 'failed-flush-forgotten',
    breaks: 'no flush says that all is well after one has failed',
    file: write,
    find: 'request.errno ||= wayOf(desk, file).failed;',
    plant: '[request.errno, wayOf(desk, file).failed] = [wayOf(desk, file).failed, 0];',
    caughtBy: 'test/image/engine-counts.test.ts',
    only: 'no flush after a failed one',
    programs: ['strace'],
  },
  {
    name: 'damage-read-as-zeros',
    breaks: 'damage is an error, never zeros',
    file: 'src/image/engine-read.ts',
    find: 'case ExtentKind.broken:\n      request.errno = EIO;\n      return;',
    plant: '',
    caughtBy,
    only: 'damage is an error',
  },
];
