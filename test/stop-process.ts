/** A process that is stopped for a while. Source: proc_pid_status(5). */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { patienceMs } from './patience.ts';

/**
 * Stops that process until it gets SIGCONT. SIGSTOP is still on its way when `kill` returns, and
 * reaches one thread before the others, any of which may answer meanwhile: this returns when all
 * have stopped. It waits without returning to Node, as those who need a device do.
 */
export function stopProcess({ pid }: { readonly pid?: number | undefined }): void {
  assert.ok(pid !== undefined, 'it has not started');
  process.kill(pid, 'SIGSTOP');
  const deadline = performance.now() + patienceMs(20_000);
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  while (!hasStopped(pid)) {
    assert.ok(performance.now() < deadline, `process ${pid} does not stop`);
    Atomics.wait(sleeper, 0, 0, 1);
  }
}

function hasStopped(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).every((tid) =>
      /^State:\s*T /m.test(readFileSync(`/proc/${pid}/task/${tid}/status`, 'utf8')),
    );
  } catch {
    // A thread that ended after it was listed: the next look tells.
    return false;
  }
}
