/** Faults of the verbs on images: what convert, compare and check promise. */
import type { Fault } from './faults.ts';

const programs = ['qemu-img', 'qemu-io'];
const copy = { file: 'src/image/copy.ts', caughtBy: 'test/cli/convert.test.ts', programs };

export const verbFaults: readonly Fault[] = [
  {
    ...copy,
    name: 'stale-bytes-left',
    breaks: 'convert -n writes zeros over what was there',
    find: "else if (underneath === 'unknown') transfer.zero(to, at, end - at, true);",
    plant: "else if (underneath === 'unknown') return;",
    only: 'an image that is there',
  },
  {
    ...copy,
    name: 'parent-shines-through',
    breaks: 'zeros of the source hide what the parent has',
    find: 'if (!isZero(run)) options.transfer.zero(to, run.at, run.lengthBytes, true);',
    plant: '',
    only: 'a child is made',
  },
  {
    name: 'busy-image-replaced',
    breaks: 'an image that someone has open is not replaced',
    file: 'src/image/new-files.ts',
    find: 'if (there !== undefined) requireUnused(path);',
    plant: '',
    caughtBy: 'test/cli/convert.test.ts',
    only: 'an image that is in use',
    programs,
  },
  {
    name: 'tail-not-compared',
    breaks: 'what only the larger disk has is compared with zeros',
    file: 'src/image/compare.ts',
    find: 'const larger = Math.max(',
    plant: 'const larger = Math.min(',
    caughtBy: 'test/cli/image-verbs.test.ts',
    only: 'what only the larger disk',
  },
  {
    name: 'corruption-mended-unasked',
    breaks: 'check -r leaks changes nothing but leaks',
    file: 'src/image/check.ts',
    find: "what === 'all' || (what === 'leaks' && kind === 'leak')",
    plant: "what === 'all' || (what === 'leaks' && kind !== undefined)",
    caughtBy: 'test/cli/image-verbs.test.ts',
    only: 'check finds damage',
  },
];
