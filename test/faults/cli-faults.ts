/** Faults of what an admin is told: who uses a file, what happens, what disks do, what is in the way. */
import type { Fault } from './faults.ts';

const verbs = { caughtBy: 'test/cli/guest-verbs.test.ts', needsLoop: true };
const rates = { caughtBy: 'test/cli/rates.test.ts' };

export const cliFaults: readonly Fault[] = [
  {
    ...verbs,
    name: 'users-by-name',
    breaks: 'users of a file are found by what it is, not by its name',
    file: 'src/daemon/users.ts',
    find: '.filter((held) => overlap(held, member))',
    plant: '.filter((held) => held.path === path)',
    only: 'who finds users',
  },
  {
    ...verbs,
    name: 'event-told-twice',
    breaks: 'an event is told once',
    file: 'src/daemon/events.ts',
    find: "return same ? undefined : 'changed';",
    plant: 'return now.state;',
    only: 'events come',
  },
  {
    name: 'answer-undocumented',
    breaks: 'an answer has the names that the document tells of',
    file: 'src/daemon/handlers.ts',
    find: 'loop_devices: loops.bound,',
    plant: 'loops: loops.bound,',
    caughtBy: 'test/daemon/openapi.test.ts',
    only: 'every operation',
    needsLoop: true,
  },
  {
    ...verbs,
    name: 'kernel-counts-sectors',
    breaks: 'figures are in bytes, whoever counts',
    file: 'src/daemon/kernel-backends.ts',
    find: 'count(name) * SECTOR_BYTES',
    plant: 'count(name)',
    only: 'top shows',
  },
  {
    ...verbs,
    name: 'completes-any-disk',
    breaks: 'disks are proposed of the guest that was named',
    file: 'src/cli/words.ts',
    find: 'context.words.some((word) => isGuest(disk, word))',
    plant: 'context.words.length > 0',
    only: 'completion knows',
  },
  {
    ...rates,
    name: 'counters-backwards',
    breaks: 'a disk that was attached again has counted from zero',
    file: 'src/cli/rates.ts',
    find: '((past ?? 0) > (present ?? 0) ? 0 : (past ?? 0))',
    plant: '(past ?? 0)',
  },
  {
    ...rates,
    name: 'terminal-commanded',
    breaks: 'a name with control characters is shown, not obeyed',
    file: 'src/cli/table.ts',
    find: "oneLine(String(cell ?? '-'))",
    plant: "String(cell ?? '-')",
  },
  {
    name: 'open-loops-leaked',
    breaks: 'a loop device that somebody has open is not called forgotten',
    file: 'src/cli/doctor/loops.ts',
    find: '!opened.has(`/dev/${name}`)',
    plant: 'opened.size >= 0 && name !== ""',
    caughtBy: 'test/cli/doctor.test.ts',
    only: 'nobody has open',
    needsLoop: true,
  },
  {
    name: 'flag-without-page',
    breaks: 'every flag of a verb is in the manual',
    file: 'tools/pages/scdoc.ts',
    find: 'return Object.entries(flags)\n    .map(',
    plant: 'return Object.entries(flags)\n    .slice(1)\n    .map(',
    caughtBy: 'test/cli/pages.test.ts',
    only: 'every verb',
  },
];
