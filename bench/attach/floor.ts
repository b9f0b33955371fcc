/**
 * The floor: the system calls that no attach can do without, in a bare TypeScript loop over the
 * same src/sys that vbdd stands on: no store, no sharing check, no pool, no plan.
 */
import { loopKernel } from '../../src/backend/loop-kernel.ts';
import { diskSequence } from '../../src/sys/blockdev.ts';
import { type Fd, O } from '../../src/sys/fd.ts';
import { openChecked } from '../../src/sys/file.ts';
import { configureLoop, loopStatus, openLoopExclusive } from '../../src/sys/loop.ts';

export interface Floor extends Disposable {
  /** Binds one of its files to one of its devices and lets go of it; what the binding took, in ms. */
  passMs(): number;
}

/**
 * A floor with one loop device for each file. It has them bound until their first pass: who looks
 * for free devices meanwhile does not find them, so make it before vbdd starts.
 */
export function createFloor(files: readonly string[]): Floor {
  using kernel = loopKernel();
  const free = kernel.unbound();
  const places = files.map((file) => {
    const number = free.pop() ?? kernel.add();
    return { file, number, reserved: bind(file, number).loop };
  });
  let passes = 0;
  return {
    passMs() {
      const place = places[passes++ % places.length];
      if (place === undefined) throw new Error('a floor has at least one file');
      place.reserved.close();
      const { loop, tookMs } = bind(place.file, place.number);
      loop.close();
      return tookMs;
    },
    [Symbol.dispose]() {
      for (const { reserved } of places) reserved.close();
    },
  };
}

/** What vbdd's `holdMs` spans: from opening the file to a device that is known to be right. */
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
