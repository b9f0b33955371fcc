/** Planted faults of how the kernel is asked. */
import type { Fault } from './faults.ts';

export const sysFaults: readonly Fault[] = [
  {
    name: 'interrupted-look-is-an-error',
    breaks: 'a look whether something has changed does not mind signals',
    file: 'src/sys/wait.ts',
    find: "// Of a signal that has been taken now.\n        if (!isErrno(thrown, 'EINTR')) throw thrown;",
    plant: 'throw thrown;',
    caughtBy: 'test/sys/kernel.test.ts',
    only: 'does not mind signals',
  },
];
