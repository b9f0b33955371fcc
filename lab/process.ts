/** Processes told apart from later ones with the same number. */
import { readFileSync } from 'node:fs';

export interface Process {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: when it started. */
  readonly started: string;
}

function startOf(pid: number): string | undefined {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** What to remember of a process that has just been started. */
export function processOf(pid: number): Process {
  return { pid, started: startOf(pid) ?? '' };
}

/** True while this very process runs. */
export function isRunning(process: Process): boolean {
  return startOf(process.pid) === process.started;
}

/** The process that a file remembers, while it runs. */
export function processIn(path: string): Process | undefined {
  try {
    const found = JSON.parse(readFileSync(path, 'utf8')) as Process;
    return isRunning(found) ? found : undefined;
  } catch {
    return undefined;
  }
}
