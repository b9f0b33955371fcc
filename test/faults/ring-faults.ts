/** Planted faults of rings and of the tap that serves them. */
import type { Fault } from './faults.ts';

const requests = { file: 'src/ring/request.ts', caughtBy: 'test/ring/request.test.ts' };
const ring = { file: 'src/ring/shared-ring.ts', caughtBy: 'test/ring/shared-ring.test.ts' };
const loop = { caughtBy: 'test/tap/ring-loop.test.ts', only: 'x86_64-abi, with plain calls' };

export const ringFaults: readonly Fault[] = [
  {
    ...requests,
    name: 'range-unchecked',
    breaks: 'no request reaches past the end of the disk',
    find: 'if (end > disk.sectors) return Status.error;',
    plant: 'if (end > disk.sectors + 1) return Status.error;',
  },
  {
    ...requests,
    name: 'segment-past-its-page',
    breaks: 'a segment is within its page',
    find: 'if (last < first || last >= SECTORS_PER_PAGE) return Status.error;',
    plant: 'if (last < first) return Status.error;',
  },
  {
    ...requests,
    name: 'read-only-ring-disk-written',
    breaks: 'what may be read only is not written',
    find: 'if (operation !== Operation.read && disk.readOnly) return Status.error;',
    plant: '',
  },
  {
    ...requests,
    name: 'indirect-answered-as-such',
    breaks: 'the response to an indirect request carries the inner operation',
    find: '  request.operation = inner;\n',
    plant: '',
  },
  {
    ...ring,
    name: 'producer-index-unchecked',
    breaks: 'a guest that claims more requests than its ring holds is told as hostile',
    find: 'return count < 0 || unanswered > entries ? -1 : count;',
    plant: 'return count;',
  },
  {
    ...ring,
    name: 'sleeps-without-looking-again',
    breaks: 'a request that comes while the backend goes to sleep is seen',
    find: 'store(RingAt.requestEvent, ring.requestsConsumed + 1);',
    plant: 'store(RingAt.requestEvent, ring.requestsConsumed + 2);',
  },
  {
    ...loop,
    name: 'response-before-its-write',
    breaks: 'a write is answered when its bytes are in the file',
    file: 'src/ring/request-work.ts',
    find: '    else write(s, place);\n',
    plant: '    else finish(s, place, Status.ok);\n',
  },
  {
    ...loop,
    name: 'answers-out-of-order',
    breaks: 'a response is that of the request whose place it takes',
    file: 'src/ring/request-work.ts',
    find: 'ring.respond(record.words, record.at(place), operation, status);',
    plant: 'ring.respond(record.words, record.at(0), operation, status);',
    only: 'random legal',
  },
  {
    name: 'request-read-from-the-ring-at-take-up',
    breaks: 'a successor takes requests from their notes, not from slots that were answered over',
    file: 'src/tap/ring-loop.ts',
    find: 'const takenUpTo = takeUp ? Atomics.load(indexes, 0) : 0;',
    plant: 'const takenUpTo = 0;',
    caughtBy: 'test/tap/take-up.test.ts',
    only: 'answered over',
  },
  {
    name: 'no-notify-at-take-up',
    breaks: 'a guest that was answered but not told hears of it from the successor',
    file: 'src/tap/ring-loop.ts',
    find: 'if (options.takeUp) notify();',
    plant: '',
    caughtBy: 'test/tap/take-up.test.ts',
    only: 'not told',
  },
  {
    name: 'port-stays-masked',
    breaks: 'every event of a guest is heard, not only its first',
    file: 'src/tap/ring-loop.ts',
    find: 'loop.hypervisor.unmask(loop.ports, count);',
    plant: '',
    ...loop,
  },
  {
    name: 'served-image-not-held',
    breaks: 'what a guest is served from is held when vbdd starts anew, before anything is given',
    file: 'src/backend/ring-disk.ts',
    find: ' && !wasOffered(record)) {',
    plant: ') {',
    caughtBy: 'test/daemon/ring-disks.test.ts',
    only: 'before anything is given',
    needsLoop: true,
  },
  {
    name: 'parents-not-held',
    breaks: 'what an image’s parent is read from is not written by another guest',
    file: 'src/backend/ring-disk.ts',
    find: 'noteHolder(world, record, [own, ...members]);',
    plant: '',
    caughtBy: 'test/daemon/ring-disks.test.ts',
    only: 'parent is read from',
    needsLoop: true,
  },
];
