/** Unpacks compressed runs: what comes out is bounded before anything is unpacked. */
import { inflateRawSync, inflateSync, zstdDecompressSync } from 'node:zlib';
import { Failure } from '../base/failure.ts';
import { Codec } from './extents.ts';
import { zstdFrameBytes } from './zstd-frame.ts';

/**
 * @param packed the run; bytes after its end are passed over
 * @param unpackedBytes the most that may come out
 * @returns what came out: fewer bytes where the run holds fewer
 * @throws Failure corrupt
 */
export function unpack(codec: Codec, packed: Uint8Array, unpackedBytes: number): Uint8Array {
  // All in one piece; with room behind it, so that the end of the run is seen at once.
  const options = { maxOutputLength: unpackedBytes, chunkSize: unpackedBytes + 64 };
  try {
    if (codec === Codec.zlib) return inflateSync(packed, options);
    if (codec === Codec.deflate) return inflateRawSync(packed, options);
    if (codec === Codec.zstd) {
      return zstdDecompressSync(packed.subarray(0, zstdFrameBytes(packed)), options);
    }
  } catch (thrown) {
    throw new Failure('corrupt', 'a compressed cluster cannot be unpacked', {}, thrown);
  }
  throw new Error(`no run is packed by codec ${codec}`);
}
