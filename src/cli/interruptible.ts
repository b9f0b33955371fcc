/** Work that leaves nothing behind when it is interrupted: a signal is noted, and the work looks for it. */
import { constants } from 'node:os';
import type { CliContext } from './context.ts';

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export interface Interruptible extends Disposable {
  /** What a shell calls the exit of what the signal ended; undefined while none has come. */
  readonly exitCode: number | undefined;
}

/** Notes signals until it is disposed. */
export function interruptible(process: CliContext['process']): Interruptible {
  let exitCode: number | undefined;
  const note = (signal: NodeJS.Signals): void => {
    exitCode = 128 + constants.signals[signal];
  };
  for (const signal of signals) process.on(signal, note);
  return {
    get exitCode() {
      return exitCode;
    },
    [Symbol.dispose]() {
      for (const signal of signals) process.off(signal, note);
    },
  };
}
