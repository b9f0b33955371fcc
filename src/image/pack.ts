/** Copies disks into a new image that is written once, as a stream: clusters are packed side by side. */
import { promisify } from 'node:util';
import { deflate, deflateRaw, zstdCompress } from 'node:zlib';
import { Codec } from './extents.ts';
import type { FileTable } from './file-table.ts';
import type { ImageStream } from './formats.ts';
import type { Image } from './image.ts';
import { readAhead } from './read-ahead.ts';
import { isAllZero } from './runs.ts';
import type { Transfer } from './transfer.ts';

const packers: Readonly<Record<Codec, ((view: Uint8Array) => Promise<Uint8Array>) | undefined>> = {
  [Codec.none]: undefined,
  [Codec.zlib]: promisify(deflate),
  [Codec.deflate]: promisify(deflateRaw),
  [Codec.zstd]: promisify(zstdCompress),
};

/**
 * Appends all that is not zero of `from` to the stream, and leaves it open.
 * @yields bytes of `from` that are done
 * @throws Failure corrupt | io | exhausted
 */
export async function* packDisk(
  from: Image,
  to: ImageStream,
  files: FileTable,
  transfer: Transfer,
): AsyncGenerator<number, void, void> {
  const pack = packers[to.codec];
  if (pack === undefined) throw new Error('a stream packs its clusters');
  const { clusterBytes } = to;
  for await (const { at, view } of readAhead(from, files, transfer, clusterBytes)) {
    const clusters: { at: number; packed: Promise<Uint8Array> }[] = [];
    for (let begin = 0; begin < view.length; begin += clusterBytes) {
      const cluster = view.subarray(begin, begin + clusterBytes);
      if (!isAllZero(cluster)) clusters.push({ at: at + begin, packed: pack(cluster) });
    }
    const packing = clusters.map((cluster) => cluster.packed);
    // The piece must stay until nobody packs it any more.
    await Promise.allSettled(packing);
    const packed = await Promise.all(packing);
    clusters.forEach((cluster, index) => to.append(cluster.at, packed[index] ?? view));
    yield at + view.length;
  }
  yield from.sizeBytes;
}
