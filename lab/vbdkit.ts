/** vbdkit at work on a booted host: its helper in the place of Xen's block script, and vbdd running. */
import type { Lab } from './step.ts';

/** Kept with the logs of Xen, which are the evidence of a failed step. */
const log = '/var/log/xen/vbdd.log';
const pidFile = '/run/vbdd.pid';

/** Starts vbdd and waits until it serves. */
export async function startVbdd({ dom0 }: Lab): Promise<void> {
  await dom0.run(`
    : > ${log}
    setsid vbdd < /dev/null >> ${log} 2>&1 &
    echo $! > ${pidFile}
    until grep -q 'is ready' ${log}; do kill -0 $! || { cat ${log}; exit 1; }; sleep 0.1; done`);
}

/** Ends vbdd as a crash would, or as systemd does. */
export async function stopVbdd({ dom0 }: Lab, signal: 'KILL' | 'TERM'): Promise<void> {
  await dom0.run(`
    pid=$(< ${pidFile}); kill -${signal} $pid
    while kill -0 $pid 2> /dev/null; do sleep 0.02; done`);
}

/** Runs `work` with vbdkit in the official script's place, and puts everything back after it. */
export async function withVbdkit(lab: Lab, work: () => Promise<void>): Promise<void> {
  await lab.dom0.run('vbd setup');
  try {
    await startVbdd(lab);
    await work();
  } finally {
    await lab.dom0.attempt(`kill $(< ${pidFile}); rm -f ${pidFile}; vbd setup --undo`);
  }
}

/** What vbdd has said since it was started. */
export async function vbddLog({ dom0 }: Lab): Promise<string> {
  return dom0.run(`cat ${log}`);
}
