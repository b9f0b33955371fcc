/**
 * The log that QEMU's blklogwrites driver keeps of a disk's writes and flushes (Linux,
 * admin-guide/device-mapper/log-writes.rst), and the disk as a power cut would have left it.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { Failure } from '../src/base/failure.ts';
import { SECTOR_BYTES } from '../src/base/units.ts';

/** The first sector: u64 magic, u64 version, u64 count of entries, u32 bytes of a sector. */
const MAGIC = 0x6a_736677_736872n;
/** An entry's sector: u64 place, u64 sectors, u64 flags, u64 bytes of data; a write's data follows it. */
const At = { sector: 0, sectors: 8, flags: 16 } as const;
const Flag = { flush: 1n, fua: 2n, discard: 4n } as const;

/** One request of the machine to its disk, in the order in which they came. */
export interface LoggedRequest {
  readonly kind: 'write' | 'discard' | 'flush';
  /** Bytes of the disk. */
  readonly at: number;
  readonly lengthBytes: number;
  /** It was durable when it was answered. */
  readonly durable: boolean;
  /** Where in the log its bytes begin: what came before is in a log that is that long. */
  readonly loggedAt: number;
}

/** All that the log holds; it may end in the middle of an entry, as its writer was killed. */
export async function readWriteLog(path: string): Promise<LoggedRequest[]> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const head = await readAt(file, 0);
    const sectorBytes = head.readUInt32LE(24);
    if (head.readBigUInt64LE(0) !== MAGIC || head.readBigUInt64LE(8) !== 1n || sectorBytes !== 512)
      throw new Failure('corrupt', `${path} is no log of writes`);
    const found: LoggedRequest[] = [];
    for (let at = sectorBytes; at + sectorBytes <= size;) {
      const request = requestOf(await readAt(file, at), at + sectorBytes);
      const dataBytes = request?.kind === 'write' ? request.lengthBytes : 0;
      if (request === undefined || request.loggedAt + dataBytes > size) break;
      found.push(request);
      at = request.loggedAt + dataBytes;
    }
    return found;
  } finally {
    await file.close();
  }
}

async function readAt(file: FileHandle, at: number): Promise<Buffer> {
  const { buffer } = await file.read(Buffer.alloc(SECTOR_BYTES), 0, SECTOR_BYTES, at);
  return buffer;
}

/** Undefined where an entry's place was taken and its writer killed. */
function requestOf(entry: Buffer, loggedAt: number): LoggedRequest | undefined {
  const number = (at: number): number => Number(entry.readBigUInt64LE(at));
  const flags = entry.readBigUInt64LE(At.flags);
  const has = (flag: bigint): boolean => (flags & flag) !== 0n;
  const isWrite = number(At.sectors) > 0;
  if (!isWrite && !has(Flag.flush)) return undefined;
  return {
    kind: has(Flag.discard) ? 'discard' : isWrite ? 'write' : 'flush',
    at: number(At.sector) * SECTOR_BYTES,
    lengthBytes: number(At.sectors) * SECTOR_BYTES,
    durable: has(Flag.fua),
    loggedAt,
  };
}

/** A request that is on the disk after a cut, as much of it as is. */
export interface Kept {
  readonly request: LoggedRequest;
  readonly lengthBytes: number;
}

/**
 * What is on a disk whose power went before request number `end`: everything up to the last flush
 * before it, and of what came since each request as chance will have it, whole, in part or not. What
 * was still under way when the flush came is kept, too: the log does not say when a request ended.
 * @param chance numbers from 0 to 1
 */
export function keptAt(
  requests: readonly LoggedRequest[],
  end: number,
  chance: () => number,
): Kept[] {
  const before = requests.slice(0, end);
  const flushed = before.findLastIndex(({ kind }) => kind === 'flush');
  const share = chance();
  return before.flatMap((request, index) => {
    const { kind, lengthBytes, durable } = request;
    if (kind === 'flush') return [];
    if (index < flushed || durable) return [{ request, lengthBytes }];
    if (chance() >= share) return [];
    const isTorn = kind === 'write' && chance() < 0.25;
    const sectors = Math.floor(chance() * (lengthBytes / SECTOR_BYTES));
    return [{ request, lengthBytes: isTorn ? sectors * SECTOR_BYTES : lengthBytes }];
  });
}

/** Carries out on the file `disk` what is kept of the log `log`. */
export async function replay(kept: readonly Kept[], log: string, disk: string): Promise<void> {
  const from = await open(log);
  const to = await open(disk, 'r+');
  try {
    for (const { request, lengthBytes } of kept) {
      // A discard promises nothing: a disk that ignores it is one too.
      if (request.kind !== 'write' || lengthBytes === 0) continue;
      const bytes = Buffer.alloc(lengthBytes);
      await from.read(bytes, 0, lengthBytes, request.loggedAt);
      await to.write(bytes, 0, lengthBytes, request.at);
    }
  } finally {
    await from.close();
    await to.close();
  }
}
