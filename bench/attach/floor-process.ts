/**
 * The floor: the system calls that no attach can do without, in a bare TypeScript loop over the
 * same src/sys that vbdd stands on: no store, no sharing check, no pool, no plan. A process that
 * sleeps until it is told, as vbdd does. Its arguments are files, each with a loop device of its own.
 */
import { loopKernel } from '../../src/backend/loop-kernel.ts';
import { diskSequence } from '../../src/sys/blockdev.ts';
import { type Fd, O } from '../../src/sys/fd.ts';
import { openChecked } from '../../src/sys/file.ts';
import { configureLoop, loopStatus, openLoopExclusive } from '../../src/sys/loop.ts';

/** What vbdd's `hold_ms` spans: from opening the file to a device that is known to be right. */
function bind(file: string, number: number): { loop: Fd; tookMs: number } {
  const beganMs = performance.now();
  const { fd: backing } = openChecked(file, O.RDWR, () => {});
  const loop = openLoopExclusive(number, false);
  configureLoop(loop.number, {
    backingFd: backing.number,
    readOnly: false,
    offsetBytes: 0,
    sizeLimitBytes: 0,
    directIo: false,
    blockSizeBytes: 512,
    name: file,
  });
  loopStatus(loop.number);
  diskSequence(loop.number);
  const tookMs = performance.now() - beganMs;
  backing.close();
  return { loop, tookMs };
}

/** Bound until vbdd has looked for free devices: so it does not find these. */
function reserve(files: readonly string[]): { file: string; number: number; reserved: Fd }[] {
  using kernel = loopKernel();
  const free = kernel.unbound();
  return files.map((file) => {
    const number = free.pop() ?? kernel.add();
    return { file, number, reserved: bind(file, number).loop };
  });
}

const places = reserve(process.argv.slice(2));
let passes = 0;
process.on('message', () => {
  const place = places[passes++ % places.length];
  if (place === undefined) throw new Error('a floor has at least one file');
  place.reserved.close();
  const { loop, tookMs } = bind(place.file, place.number);
  loop.close();
  process.send?.(tookMs);
});
process.send?.('ready');
