/** How far long work is: a line that is written over with -p, or one line for each SIGUSR1. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { performance } from 'node:perf_hooks';
import type { CliContext } from './context.ts';

/** Signals get a turn, and the line a new figure, this often. */
const intervalMs = 50;

export interface Progress extends Disposable {
  /** Says that so much is done, when it is time to; otherwise costs next to nothing. */
  tell(doneBytes: number, allBytes: number): Promise<void>;
  /** Says that all is done. */
  end(): void;
}

/** @param shown whether there is a line; without it, SIGUSR1 is answered on stderr */
export function createProgress(process: CliContext['process'], shown: boolean): Progress {
  let percent = 0;
  let toldAtMs = -Infinity;
  const text = (): string => `    (${percent.toFixed(2)}/100%)`;
  const onSignal = (): void => void (shown || process.stderr.write(`${text()}\n`));
  process.on('SIGUSR1', onSignal);
  return {
    async tell(doneBytes, allBytes) {
      percent = allBytes === 0 ? 100 : (doneBytes / allBytes) * 100;
      const nowMs = performance.now();
      if (nowMs - toldAtMs < intervalMs) return;
      toldAtMs = nowMs;
      if (shown) process.stdout.write(`${text()}\r`);
      await nextTurn();
    },
    end() {
      percent = 100;
      if (shown) process.stdout.write(`${text()}\n`);
    },
    [Symbol.dispose]: () => void process.off('SIGUSR1', onSignal),
  };
}
