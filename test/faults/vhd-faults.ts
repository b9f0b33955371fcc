/** Faults of VHD and VHDX: promises to those who lose their power, their parents, or their nerve. */
import type { Fault } from './faults.ts';

const places = { file: 'src/image/places.ts', caughtBy: 'test/image/vhd.test.ts' };
const vhdPlaces = { file: 'src/image/vhd/places.ts', caughtBy: 'test/image/vhd.test.ts' };
const vhdx = { file: 'src/image/vhdx/open.ts', caughtBy: 'test/image/vhdx-peers.test.ts' };
const child = '^vhd, dynamic: so does';
const programs = '^vhd, dynamic: any program';
const cuts = '^vhd, dynamic: what was answered';

export const vhdFaults: readonly Fault[] = [
  {
    name: 'vhd-child-barrier-dropped',
    breaks: 'the parent shows through until what replaces it is on stable storage',
    file: 'src/image/vhd/write.ts',
    find: 'addBarrier(out, file);\n  }\n  putEntry(',
    plant: '}\n  putEntry(',
    caughtBy: 'test/image/vhd.test.ts',
    only: child,
  },
  {
    ...places,
    name: 'freed-block-reused-at-once',
    breaks: 'the place of a freed block is used again only when nobody can find it there',
    find: 'addBarrier(out, file);\n}',
    plant: '}',
    only: cuts,
  },
  {
    ...vhdPlaces,
    name: 'vhd-footer-left-behind',
    breaks: 'the file ends with its footer',
    find: 'put(out, file, end, footer);',
    plant: '',
    only: programs,
  },
  {
    ...vhdPlaces,
    name: 'vhd-shared-place-written',
    breaks: 'a place that two blocks claim is not written to',
    find: 'if (place < last + stride) places.shared.add(place).add(last);',
    plant: '',
    caughtBy: 'test/image/vhd-damage.test.ts',
  },
  {
    name: 'vhd-batmap-believed',
    breaks: 'a batmap counts only when its checksum holds',
    file: 'src/image/vhd/open.ts',
    find: 'if (batmap?.isTrue !== true) return;',
    plant: 'if (batmap === undefined) return;',
    caughtBy: 'test/image/vhd-damage.test.ts',
  },
  {
    name: 'vhd-batmap-outlives-a-discard',
    breaks: 'what is flushed after a torn discard is there for who knows no batmap',
    file: 'src/image/vhd/zero.ts',
    find: 'if (unmap && vhd.parent === undefined) {',
    plant: 'if (unmap && vhd.parent !== undefined) {',
    caughtBy: 'test/image/vhd-cuts.test.ts',
  },
  {
    name: 'vhd-batmap-cleared-without-a-barrier',
    breaks: 'the batmap says nothing of a block before it loses its place',
    file: 'src/image/vhd/batmap.ts',
    find: '  addBarrier(out, vhd.file);\n  batmap.stale = true;',
    plant: '  batmap.stale = true;',
    caughtBy: 'test/image/vhd-cuts.test.ts',
  },
  {
    name: 'vhd-any-parent',
    breaks: 'only the image that a child was made of is its parent',
    file: 'src/image/vhd/open.ts',
    find: 'if (id !== undefined && Buffer.compare(id, header.parentUniqueId) === 0) return undefined;',
    plant: 'if (id !== undefined) return undefined;',
    caughtBy: 'test/image/vhd-parents.test.ts',
  },
  {
    ...vhdx,
    name: 'vhdx-log-overlooked',
    breaks: 'a dirty VHDX is read as its log says',
    find: 'bytes: replayed(given, replay), copies,',
    plant: 'bytes: given, copies,',
    only: 'read by a replay',
  },
  {
    ...vhdx,
    name: 'vhdx-guids-kept',
    breaks: 'the children of a VHDX that was written to know it',
    file: 'src/image/vhdx/log.ts',
    find: 'planHeader(vhdx, { fileWriteGuid, dataWriteGuid }, out);',
    plant: 'planHeader(vhdx, { fileWriteGuid }, out);',
    only: 'gives a disk new GUIDs',
  },
];
