/** Reading a stream so many bytes at a time. */
import type { Duplex } from 'node:stream';
import { Failure } from '../base/failure.ts';

/** @throws Failure unavailable when the stream ends before so many have come */
export type ReadBytes = (count: number) => Promise<Buffer>;

/** @param who is at the other end, for sentences */
export function byteReader(stream: Duplex, who: string): ReadBytes {
  let kept: Buffer[] = [];
  const there = { bytes: 0, ended: false };
  let wake = (): void => {};
  stream.on('data', (data: Buffer) => {
    kept.push(data);
    there.bytes += data.length;
    wake();
  });
  for (const event of ['end', 'close', 'error']) {
    stream.on(event, () => {
      there.ended = true;
      wake();
    });
  }
  return async (count) => {
    while (there.bytes < count) {
      if (there.ended) throw new Failure('unavailable', `${who} has hung up`);
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      await promise;
    }
    const all = kept.length === 1 && kept[0] !== undefined ? kept[0] : Buffer.concat(kept);
    kept = [all.subarray(count)];
    there.bytes -= count;
    return all.subarray(0, count);
  };
}
