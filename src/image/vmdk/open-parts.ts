/** From the lines of a descriptor to open files whose headers were checked. */
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import type { FileTable } from '../file-table.ts';
import type { OpenContext } from '../formats.ts';
import type { ExtentLine } from './descriptor.ts';
import { loadDirectories, plainGrains, readHead } from './grains.ts';
import { PartKind, tableCount, type Grains, type Part } from './part.ts';
import { openSeSparse } from './sesparse.ts';
import {
  checkGeometry,
  corrupt,
  COWD_ENTRIES_PER_TABLE,
  COWD_MAGIC,
  CowdHeader,
  DEFLATE,
  DIRECTORY_AT_END,
  readLayout,
  readSparseHeader,
  SparseFlag,
  SparseHeader,
  type SparseHeaderValues,
} from './sparse-header.ts';
import { readFooter, scanStream } from './stream-scan.ts';

/** The files of an image that is being opened: each once, all closed when it comes to nothing. */
export interface OpenFiles {
  readonly files: FileTable;
  readonly numbers: number[];
  readonly byName: Map<string, number>;
}

/** Opens all extents of a stand-alone descriptor, in order. @throws Failure */
export function openParts(
  lines: readonly ExtentLine[],
  context: OpenContext,
  open: OpenFiles,
): Part[] {
  const parts: Part[] = [];
  let startAt = 0;
  for (const line of lines) {
    const part = openPart(line, startAt, context, open);
    if (part.lengthBytes !== line.lengthBytes && lines.length > 1) {
      throw corrupt(
        `extent ${line.name} holds ${part.lengthBytes} bytes, the descriptor says ${line.lengthBytes}`,
      );
    }
    parts.push(part);
    startAt += part.lengthBytes;
  }
  return parts;
}

function openPart(line: ExtentLine, startAt: number, context: OpenContext, open: OpenFiles): Part {
  const { type, access, lengthBytes } = line;
  const base = { type, access, startAt, lengthBytes, file: -1, fileAt: 0, grains: undefined };
  if (type === 'VMFSRDM' || type === 'VMFSRAW') {
    throw new Failure(
      'unsupported',
      `the VMDK's extent of type ${type} is a device of an ESX host`,
    );
  }
  if (access === 'NOACCESS') return { ...base, kind: PartKind.closed };
  if (type === 'ZERO' || line.name === undefined) return { ...base, kind: PartKind.zero };
  const file = openFile(line.name, context.writable && access === 'RW', context, open);
  const bytes = open.files.get(file);
  if (type === 'FLAT' || type === 'VMFS') {
    if (line.offsetBytes + lengthBytes > bytes.sizeBytes()) {
      throw corrupt(`${bytes.path} ends before the extent that the descriptor says is in it`);
    }
    return { ...base, kind: PartKind.flat, file, fileAt: line.offsetBytes };
  }
  if (type === 'SPARSE') return sparsePart(open.files, file, line, startAt);
  if (type === 'VMFSSPARSE') return cowdPart(open.files, file, line, startAt);
  const grains = openSeSparse(open.files, file, lengthBytes);
  return { ...base, kind: PartKind.grains, file, grains };
}

function openFile(name: string, writable: boolean, context: OpenContext, open: OpenFiles): number {
  const known = open.byName.get(name);
  if (known !== undefined) return known;
  const file = open.files.add(context.openExtent(name, writable));
  open.numbers.push(file);
  open.byName.set(name, file);
  return file;
}

/** A hosted sparse file as a part. @throws Failure corrupt | unsupported */
export function sparsePart(
  files: FileTable,
  file: number,
  line: ExtentLine,
  startAt: number,
): Part {
  const bytes = files.get(file);
  const head = readHead(bytes, 0, SparseHeader.size);
  if (head.length < SparseHeader.size) throw corrupt(`${bytes.path} is shorter than its header`);
  const first = readSparseHeader(head);
  const header = withDirectory(first, bytes);
  const lengthBytes =
    (header ?? first).capacity === 0 ? line.lengthBytes : (header ?? first).capacity * SECTOR_BYTES;
  const { type, access } = line;
  const base = { kind: PartKind.grains, type, access, startAt, lengthBytes, file, fileAt: 0 };
  if (header === undefined) {
    return { ...base, grains: scanStream(bytes, file, first, lengthBytes) };
  }
  return { ...base, grains: hostedGrains(files, file, header, lengthBytes) };
}

/** The header that knows where the directory is; undefined when a stream lost its footer. */
function withDirectory(header: SparseHeaderValues, bytes: Bytes): SparseHeaderValues | undefined {
  if (header.directoryAt !== DIRECTORY_AT_END) return header;
  if ((header.flags & SparseFlag.compressed) === 0) throw corrupt('it has no grain directory');
  return readFooter(bytes);
}

function hostedGrains(
  files: FileTable,
  file: number,
  header: SparseHeaderValues,
  lengthBytes: number,
): Grains {
  const { flags, version } = header;
  const redundant = (flags & SparseFlag.redundantDirectory) !== 0;
  const grains: Grains = {
    ...plainGrains(file, files.get(file).sizeBytes()),
    grainBytes: header.grain * SECTOR_BYTES,
    entriesPerTable: header.entriesPerTable,
    tableBytes: Math.ceil((header.entriesPerTable * 4) / SECTOR_BYTES) * SECTOR_BYTES,
    compressed: (flags & SparseFlag.compressed) !== 0 || header.compression === DEFLATE,
    zeroGrains: (flags & SparseFlag.zeroGrains) !== 0 && version >= 2,
    endIsOpen: header.unclean !== 0,
    directoryAt: Number(header.directoryAt) * SECTOR_BYTES,
    redundantAt: redundant ? header.redundantDirectoryAt * SECTOR_BYTES : 0,
    uncleanAt: SparseHeader.at.unclean,
  };
  loadDirectories(files, grains, lengthBytes);
  return grains;
}

/** A COWD file as a part. @throws Failure corrupt | unsupported */
export function cowdPart(files: FileTable, file: number, line: ExtentLine, startAt: number): Part {
  const bytes = files.get(file);
  const head = readHead(bytes, 0, CowdHeader.size);
  if (head.length < CowdHeader.size) throw corrupt(`${bytes.path} is shorter than its header`);
  const header = readLayout(() => CowdHeader.get(head));
  if (header.magic !== COWD_MAGIC) throw corrupt(`${bytes.path} does not begin with COWD`);
  if (header.version !== 1) {
    throw new Failure('unsupported', `${bytes.path} is COWD of version ${header.version}`);
  }
  checkGeometry(header.capacity, header.grain, COWD_ENTRIES_PER_TABLE);
  const lengthBytes = header.capacity * SECTOR_BYTES;
  const grainBytes = header.grain * SECTOR_BYTES;
  if (header.directoryEntries < tableCount(lengthBytes, grainBytes, COWD_ENTRIES_PER_TABLE)) {
    throw corrupt(`the grain directory of ${bytes.path} is too small for its disk`);
  }
  const grains: Grains = {
    ...plainGrains(file, bytes.sizeBytes()),
    grainBytes,
    entriesPerTable: COWD_ENTRIES_PER_TABLE,
    tableBytes: COWD_ENTRIES_PER_TABLE * 4,
    endIsOpen: header.unclean !== 0,
    directoryAt: header.directoryAt * SECTOR_BYTES,
    uncleanAt: CowdHeader.at.unclean,
    nextFreeAt: CowdHeader.at.nextFree,
    nextAt: header.nextFree * SECTOR_BYTES,
  };
  loadDirectories(files, grains, lengthBytes);
  const { type, access } = line;
  return { kind: PartKind.grains, type, access, startAt, lengthBytes, file, fileAt: 0, grains };
}
