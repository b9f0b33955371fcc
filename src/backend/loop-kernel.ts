/** The pool's kernel, for real: /dev/loop-control, /dev/loopN and sysfs. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { diskSequence } from '../sys/blockdev.ts';
import {
  addLoop,
  configureLoop,
  loopStatus,
  openLoopControl,
  openLoopExclusive,
  refreshLoopCapacity,
  setLoopAutoclear,
} from '../sys/loop.ts';
import type { LoopKernel } from './loop-pool.ts';

/**
 * Opens the kernel's loop driver.
 * @throws Failure denied | unavailable
 */
export function loopKernel(sysBlock = '/sys/block'): LoopKernel {
  const control = openLoopControl();
  const isUnbound = (number: number): boolean =>
    !existsSync(join(sysBlock, `loop${number}`, 'loop', 'backing_file'));
  return {
    unbound: () =>
      readdirSync(sysBlock)
        .map((name) => /^loop(\d+)$/.exec(name)?.[1])
        .filter((digits) => digits !== undefined)
        .map(Number)
        .filter(isUnbound)
        .sort((a, b) => a - b),
    isUnbound,
    add: () => addLoop(control.number, -1),
    openExclusive: openLoopExclusive,
    configure: configureLoop,
    status: loopStatus,
    diskSequence,
    setAutoclear: setLoopAutoclear,
    refreshCapacity: refreshLoopCapacity,
    [Symbol.dispose]: () => control.close(),
  };
}
