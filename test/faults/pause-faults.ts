/** Planted faults of disks that an admin pauses. */
import type { Fault } from './faults.ts';

const pause = { caughtBy: 'test/daemon/pause.test.ts', needsLoop: true };

export const pauseFaults: readonly Fault[] = [
  {
    ...pause,
    name: 'pause-forgotten-by-a-successor',
    breaks: 'a disk that an admin has paused waits, whoever is restarted',
    file: 'src/tap/disks.ts',
    find: 'limiter.hold(page.held());',
    plant: '',
    only: 'stays as it is',
  },
  {
    ...pause,
    name: 'ended-pause-resumed',
    breaks: 'who ends a pause that has ended by itself is told',
    file: 'src/daemon/pause.ts',
    find: 'tap.statistics(name)?.held !== true',
    plant: 'false',
    only: 'ended by itself',
  },
  {
    name: 'ended-pause-changes-when-full',
    breaks: 'what is done with a full file system outlives the end of a pause',
    file: 'src/backend/ring-disk.ts',
    find: "if (ring?.paused === 'admin') {",
    plant: "if (ring?.paused === 'admin') {\n    await tap.whenFull(name, 'report');",
    caughtBy: 'test/daemon/full-disk.test.ts',
    only: 'an admin had paused',
    needsLoop: true,
  },
  {
    ...pause,
    name: 'nbd-requests-not-under-way',
    breaks: 'a pause is done when nothing is under way, by NBD either',
    file: 'src/nbd/metered.ts',
    find: '  meter.statistics.noteUnderWay(1);\n',
    plant: '',
    only: 'NBD clients',
    needsFuse: true,
    programs: ['nbdfuse', 'nbdkit'],
  },
  {
    ...pause,
    name: 'paused-disk-not-let-go-on',
    breaks: 'a disk that an admin has paused goes on when it is to be detached',
    file: 'src/backend/ring-disk.ts',
    find: 'await tap.hold(name, false);\n    // There',
    plant: '// There',
    caughtBy: 'test/daemon/full-disk.test.ts',
    only: 'an admin had paused',
  },
];
