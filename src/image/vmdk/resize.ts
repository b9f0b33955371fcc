/** Another size for a VMDK that is one file of grains, or a descriptor with one flat file. */
import { Failure } from '../../base/failure.ts';
import { roundUp } from '../../base/round.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { FileTable } from '../file-table.ts';
import { addBarrier, addPut, addResize, addZero, type Steps } from '../steps.ts';
import { planCut } from './cut.ts';
import { parseDescriptor, type Span } from './descriptor.ts';
import { readHead } from './grains.ts';
import {
  PartKind,
  placeOf,
  putU32,
  redundantTableAt,
  tableAt,
  tableCount,
  type Grains,
  type Part,
} from './part.ts';
import { planFirstAllocation, planFirstWrite, type Session } from './session.ts';
import { SparseHeader } from './sparse-header.ts';
import type { Written } from './write.ts';

const MAX_SPARSE_BYTES = 2 ** 32 * SECTOR_BYTES;

/** As `Image.planResize`. @throws Failure unsupported | invalid */
export function planResize(image: Written, sizeBytes: number, out: Steps): boolean {
  const [part, ...others] = image.parts;
  const newBytes = roundUp(sizeBytes, SECTOR_BYTES);
  if (part === undefined || newBytes === image.sizeBytes) return false;
  const isSparse = part.type === 'SPARSE';
  const isFlat = part.kind === PartKind.flat && part.fileAt === 0;
  if (others.length > 0 || (!isSparse && !isFlat)) {
    throw new Failure('unsupported', `${image.path} has many extents — convert it`);
  }
  const { parent } = image;
  const grows = newBytes > image.sizeBytes;
  if (grows && parent !== undefined && parent.sizeBytes > image.sizeBytes) {
    const what = `the parent of ${image.path} is larger than it`;
    throw new Failure('unsupported', `${what}, and would be seen behind its end — convert it`);
  }
  if (isSparse && newBytes > MAX_SPARSE_BYTES) {
    throw new Failure('invalid', `a VMDK of this kind cannot be of ${newBytes} bytes`);
  }
  planFirstWrite(image.session, out);
  if (part.grains !== undefined && !grows) {
    cutGrains(image, part, part.grains, newBytes, out);
  } else if (part.grains !== undefined) {
    growGrains(image.files, part, part.grains, newBytes, out);
    planDescriptor(image.session, newBytes, out);
  } else if (grows) {
    addResize(out, part.file, newBytes);
    addBarrier(out, part.file);
    planDescriptor(image.session, newBytes, out);
  } else {
    planDescriptor(image.session, newBytes, out);
    addBarrier(out, image.session.descriptorFile);
    addResize(out, part.file, newBytes);
  }
  part.lengthBytes = newBytes;
  image.sizeBytes = newBytes;
  return false;
}

/** Longer directories at the end of the file, with all tables that they name; the header last. */
function growGrains(
  files: FileTable,
  part: Part,
  grains: Grains,
  newBytes: number,
  out: Steps,
): void {
  planFirstAllocation(grains, out);
  planTail(files, part, grains, out);
  clearBehind(files, part, grains, out);
  const tables = tableCount(newBytes, grains.grainBytes, grains.entriesPerTable);
  const before = tableCount(part.lengthBytes, grains.grainBytes, grains.entriesPerTable);
  if (tables > before) {
    const directoryBytes = roundUp(tables * 4, SECTOR_BYTES);
    const copyBytes = directoryBytes + (tables - before) * grains.tableBytes;
    const copies = grains.redundant === undefined ? 1 : 2;
    const firstAt = grains.nextAt;
    grains.nextAt = roundUp(firstAt + copies * copyBytes, grains.grainBytes);
    grains.endAt = Math.max(grains.endAt, grains.nextAt);
    addResize(out, grains.file, grains.endAt);
    const grow = (old: Uint8Array, at: number): Uint8Array => {
      const kept = files.keep(grains.file, at, tables * 4);
      const from = addPut(out, grains.file, at, tables * 4);
      out.scratch.set(old, from);
      for (let table = before; table < tables; table++) {
        const place = at + directoryBytes + (table - before) * grains.tableBytes;
        putU32(out.scratch, from + table * 4, place / SECTOR_BYTES);
      }
      return kept;
    };
    grains.directory = grow(grains.directory, firstAt);
    grains.directoryAt = firstAt;
    if (grains.redundant !== undefined) {
      grains.redundant = grow(grains.redundant, firstAt + copyBytes);
      grains.redundantAt = firstAt + copyBytes;
    }
  }
  addBarrier(out, grains.file);
  putHeader(files, grains, newBytes, out);
}

/** Entries behind the end, which a resize that was cut off may have left, are not to be seen. */
function clearBehind(files: FileTable, part: Part, grains: Grains, out: Steps): void {
  const used = Math.ceil(part.lengthBytes / grains.grainBytes);
  const inTable = used % grains.entriesPerTable;
  const table = Math.floor(used / grains.entriesPerTable);
  if (inTable === 0) return;
  for (const at of [tableAt(grains, table), redundantTableAt(grains, table)]) {
    if (at <= 0) continue;
    const view = readHead(files.get(grains.file), at, grains.tableBytes).subarray(inTable * 4);
    if (view.every((byte) => byte === 0)) continue;
    const from = addPut(out, grains.file, at + inTable * 4, view.length);
    out.scratch.fill(0, from, from + view.length);
  }
}

/** The header first: what is behind the end by it is not seen, and then taken away. */
function cutGrains(image: Written, part: Part, grains: Grains, newBytes: number, out: Steps): void {
  planFirstAllocation(grains, out);
  putHeader(image.files, grains, newBytes, out);
  planDescriptor(image.session, newBytes, out);
  addBarrier(out, grains.file);
  planTail(image.files, { ...part, lengthBytes: newBytes }, grains, out);
  planCut(image, part, grains, roundUp(newBytes, grains.grainBytes), out);
}

function putHeader(files: FileTable, grains: Grains, newBytes: number, out: Steps): void {
  const header = readHead(files.get(grains.file), 0, SparseHeader.size);
  SparseHeader.put(header, {
    capacity: newBytes / SECTOR_BYTES,
    directoryAt: BigInt(grains.directoryAt / SECTOR_BYTES),
    unclean: 1,
    ...(grains.redundant === undefined
      ? {}
      : { redundantDirectoryAt: grains.redundantAt / SECTOR_BYTES }),
  });
  const from = addPut(out, grains.file, 0, header.length);
  out.scratch.set(header, from);
}

/** What the last grain holds behind the end of the disk must not be seen when that moves. */
function planTail(files: FileTable, part: Part, grains: Grains, out: Steps): void {
  const used = part.lengthBytes % grains.grainBytes;
  if (used === 0) return;
  const grain = Math.floor(part.lengthBytes / grains.grainBytes);
  const table = tableAt(grains, Math.floor(grain / grains.entriesPerTable));
  if (table <= 0) return;
  const entryAt = table + (grain % grains.entriesPerTable) * 4;
  const place = placeOf(grains, readHead(files.get(grains.file), entryAt, 4), 0);
  if (place > 0) addZero(out, grains.file, place + used, grains.grainBytes - used, true);
}

/** The descriptor as it is, with another size of its one extent, and a geometry that fits. */
function planDescriptor(session: Session, newBytes: number, out: Steps): void {
  const { descriptor, descriptorFile, descriptorAt, descriptorEndAt } = session;
  if (descriptor === undefined) return;
  const sectors = newBytes / SECTOR_BYTES;
  const edits: [Span, string][] = [];
  const [line] = descriptor.extents;
  if (line !== undefined) edits.push([line.sectorsAt, String(sectors)]);
  const geometry = (name: string): number => Number(descriptor.values.get(`ddb.geometry.${name}`));
  const cylinders = Math.floor(sectors / (geometry('heads') * geometry('sectors')));
  const found = /^\s*ddb\.geometry\.cylinders\s*=\s*"?(\d+)/dim.exec(descriptor.text)?.indices?.[1];
  if (found !== undefined && Number.isSafeInteger(cylinders)) {
    edits.push([{ at: found[0], length: found[1] - found[0] }, String(cylinders)]);
  }
  let { text } = descriptor;
  for (const [{ at, length }, value] of edits.sort(([a], [b]) => b.at - a.at)) {
    text = text.slice(0, at) + value + text.slice(at + length);
  }
  const bytes = Buffer.from(text, 'latin1');
  const isAlone = descriptorAt === 0;
  const room = isAlone ? bytes.length : descriptorEndAt - descriptorAt;
  if (bytes.length > room) {
    throw new Failure('unsupported', 'the descriptor has no room left for the new size');
  }
  const from = addPut(out, descriptorFile, descriptorAt, room);
  out.scratch.fill(0, from, from + room);
  out.scratch.set(bytes, from);
  if (isAlone) addResize(out, descriptorFile, bytes.length);
  session.descriptor = parseDescriptor(bytes);
}
