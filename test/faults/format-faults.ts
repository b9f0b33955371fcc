/** Planted faults for the promises of VMDK and qcow2: what hides a parent, what others must notice, second copies. */
import type { Fault } from './faults.ts';

const vmdk = { file: 'src/image/vmdk/write.ts', caughtBy: 'test/image/vmdk.test.ts' };
const session = { file: 'src/image/vmdk/session.ts', caughtBy: 'test/image/vmdk-session.test.ts' };
const qcow2 = { file: 'src/image/qcow2/write.ts', caughtBy: 'test/image/qcow2.test.ts' };
const peers = { caughtBy: 'test/image/qcow2-peers.test.ts', programs: ['qemu-img', 'qemu-io'] };

export const formatFaults: readonly Fault[] = [
  {
    ...vmdk,
    name: 'vmdk-grain-before-its-bytes',
    breaks: 'a grain that hides a parent is on stable storage before it is seen',
    find: 'if (planBytes(image, stretch, newGrainsAt, requestAt, out)) addBarrier(out, grains.file);',
    plant: 'planBytes(image, stretch, newGrainsAt, requestAt, out);',
    only: 'vmdk: so does what a child holds',
  },
  {
    ...vmdk,
    name: 'vmdk-head-not-copied',
    breaks: 'what a grain does not have from a write it has from the parent',
    find: 'if (copies && from > grainAt) {',
    plant: 'if (copies && from < grainAt) {',
    only: 'vmdk: any program',
  },
  {
    ...vmdk,
    name: 'vmdk-second-table-forgotten',
    breaks: 'both grain tables say the same',
    find: 'planEntries(image, stretch, redundant + inTable * 4, newGrainsAt, out);',
    plant: '',
    caughtBy: session.caughtBy,
    only: 'both copies',
  },
  {
    ...session,
    name: 'vmdk-content-id-kept',
    breaks: 'a child notices that its parent was written',
    find: 'putText(session, descriptor.cidAt, digits, out);',
    plant: '',
    only: 'not taken for the parent',
  },
  {
    ...session,
    name: 'vmdk-not-marked',
    breaks: 'a file that was not closed in order says so',
    find: 'planUnclean(grains, 1, out);',
    plant: '',
    only: 'marked while it is allocated from',
  },
  {
    name: 'vmdk-tracked-blocks-written',
    breaks: 'an image whose changed blocks are tracked is not written',
    file: 'src/image/vmdk/vmdk.ts',
    find: 'descriptor?.changeTrackPath !== undefined',
    plant: "descriptor?.changeTrackPath === ''",
    caughtBy: session.caughtBy,
    only: 'changed blocks are tracked',
  },
  {
    name: 'vmdk-cut-stream-ends-in-zeros',
    breaks: 'what a stream lost is not served as zeros',
    file: 'src/image/vmdk/stream-scan.ts',
    find: 'known = Math.max(known, grain + 1);',
    plant: 'known = scanned.length;',
    caughtBy: 'test/image/vmdk-peers.test.ts',
    only: 'cut off',
  },
  {
    ...qcow2,
    name: 'qcow2-entry-before-its-bytes',
    breaks: 'a cluster that hides a parent is on stable storage before it is seen',
    find: 'if (planBytes(image, newAt, requestAt, out)) addBarrier(out, image.dataFile);',
    plant: 'planBytes(image, newAt, requestAt, out);',
    only: 'qcow2: so does what a child holds',
  },
  {
    ...qcow2,
    name: 'qcow2-shared-cluster-written',
    breaks: 'what a snapshot holds stays when the disk is written',
    find: 'const isHere = isOwn && state',
    plant: 'const isHere = state',
    ...peers,
    only: 'what a snapshot holds',
  },
  {
    ...qcow2,
    name: 'qcow2-not-released',
    breaks: 'clusters that nothing uses any more are not counted',
    find: 'if (old !== undefined) releaseOld(image, old, out);',
    plant: '',
    ...peers,
    only: 'packed by zlib',
  },
  {
    name: 'qcow2-dirty-not-mended',
    breaks: 'refcounts that were left behind are counted anew',
    file: 'src/image/qcow2/check.ts',
    find: 'image.mend = wrongCounts(image, survey);',
    plant: '',
    ...peers,
    only: 'a dirty image is put right',
  },
  {
    name: 'qcow2-parent-probed',
    breaks: 'the format of a parent is never guessed',
    file: 'src/image/qcow2/qcow2.ts',
    find: 'if (format === undefined) {',
    plant: "if (backingFormat === '') {",
    caughtBy: 'test/image/qcow2-damage.test.ts',
    only: 'does not say what format',
  },
];
