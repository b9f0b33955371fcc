/** Faults of the verbs on images: what convert, compare and check promise. */
import type { Fault } from './faults.ts';

const programs = ['qemu-img', 'qemu-io'];
const cuts = { caughtBy: 'test/image/verbs-cuts.test.ts' };
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
    ...cuts,
    name: 'commit-empties-first',
    breaks: 'a child is emptied only when all of it is on stable storage in its parent',
    file: 'src/image/commit.ts',
    find: 'transfer.flush(base);\n      const empties',
    plant: 'const empties',
    only: '^(qcow2|vhd|vmdk): a commit',
  },
  {
    ...cuts,
    name: 'rebase-compares-nothing',
    breaks: 'a disk reads the same over another parent',
    file: 'src/image/rebase.ts',
    find: 'const copiedBytes = unsafe ? 0 :',
    plant: 'const copiedBytes = options.files !== undefined ? 0 :',
    only: '^qcow2: a rebase',
  },
  {
    ...cuts,
    name: 'qcow2-stale-end-shown',
    breaks: 'what a resize that was cut off left behind the end is not seen when the disk grows',
    file: 'src/image/qcow2/resize.ts',
    find: 'if (grows) planCut(',
    plant: "if (path === '') planCut(",
    only: '^qcow2 of the smallest clusters: a resize',
  },
  {
    name: 'snapshot-listed-before-it-is-there',
    breaks: 'a snapshot is listed only when all of it is there',
    file: 'src/image/qcow2/snapshots.ts',
    find: 'image.snapshots = entries.length;\n  addBarrier(out, image.file);',
    plant: 'image.snapshots = entries.length;',
    caughtBy: 'test/image/snapshot-cuts.test.ts',
    only: 'is made when',
  },
  {
    name: 'dry-run-mends',
    breaks: 'repair --dry-run changes nothing',
    file: 'src/cli/commands/repair.ts',
    find: "flags.dryRun ? 'none' : what",
    plant: 'what',
    caughtBy: 'test/cli/repair.test.ts',
    only: 'a VHD without its footer',
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
