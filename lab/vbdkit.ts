/** vbdkit at work on a booted host: its helper in the place of Xen's block script, vbdd and its tap running. */
import type { Lab, ServedBy } from './step.ts';

type Program = 'vbdd' | 'vbd-tap';

function pidFileOf(program: Program): string {
  return `/run/lab-${program}.pid`;
}

/**
 * Starts a program and waits until it serves, in one line: a driver domain's console takes one at a
 * time. What waits takes none of the one processor from what is waited for.
 */
export function startScript(program: Program): string {
  // Kept with the logs of Xen, which are the evidence of a failed step.
  const log = `/var/log/xen/${program}.log`;
  return [
    `: > ${log}; setsid ${program} < /dev/null >> ${log} 2>&1 & echo $! > ${pidFileOf(program)}`,
    `exec 3< <(exec tail --pid=$! -n +1 -f ${log})`,
    `tail=$!; if grep -q 'is ready' <&3; then kill $tail; else cat ${log}; false; fi`,
  ].join('; ');
}

async function start({ dom0 }: Lab, program: Program): Promise<void> {
  await dom0.run(startScript(program), { timeoutMs: 300_000 });
}

async function stop({ dom0 }: Lab, program: Program, signal: 'KILL' | 'TERM'): Promise<void> {
  await dom0.run(`
    pid=$(< ${pidFileOf(program)}); kill -${signal} $pid
    while kill -0 $pid 2> /dev/null; do sleep 0.02; done`);
}

async function isRunning({ dom0 }: Lab, program: Program): Promise<boolean> {
  return (await dom0.attempt(`kill -0 $(< ${pidFileOf(program)})`)).code === 0;
}

/** Starts vbdd in dom0 and waits until it serves. */
export const startVbdd = (lab: Lab): Promise<void> => start(lab, 'vbdd');

/** Ends vbdd as a crash would, or as systemd does. */
export const stopVbdd = (lab: Lab, signal: 'KILL' | 'TERM'): Promise<void> =>
  stop(lab, 'vbdd', signal);

/** Makes the tap run in dom0, as it does until Xen's own script is to serve again. */
export async function startTap(lab: Lab): Promise<void> {
  if (!(await isRunning(lab, 'vbd-tap'))) await start(lab, 'vbd-tap');
}

export const stopTap = (lab: Lab, signal: 'KILL' | 'TERM'): Promise<void> =>
  stop(lab, 'vbd-tap', signal);

/**
 * Makes vbdkit serve this host's disks, or Xen's own script again. Starting Node is dear under
 * emulation, so a vbdd that runs is left running from step to step.
 */
export async function serveBy(lab: Lab, by: ServedBy): Promise<void> {
  const running = await isRunning(lab, 'vbdd');
  if (by === 'vbdkit' && !running) {
    await lab.dom0.run('vbd setup', { timeoutMs: 300_000 });
    // What a tap does first takes it many times as long under emulation.
    await lab.dom0.run(`echo 'tap_seconds = 35' > /etc/xen/vbdkit.conf`);
    await startVbdd(lab);
  }
  if (by === 'xen') {
    if (running) await stopVbdd(lab, 'TERM');
    if (await isRunning(lab, 'vbd-tap')) await stopTap(lab, 'TERM');
    const undo = `rm -f ${pidFileOf('vbdd')} /etc/xen/vbdkit.conf; vbd setup --undo`;
    const isSetUp = '[ -L /etc/xen/scripts/block-vbd ]';
    await lab.dom0.run(`! ${isSetUp} || { ${undo}; }`, { timeoutMs: 300_000 });
  }
}

/** Runs `work` with vbdkit in the official script's place, in a step that begins without it. */
export async function withVbdkit(lab: Lab, work: () => Promise<void>): Promise<void> {
  await serveBy(lab, 'vbdkit');
  try {
    await work();
  } finally {
    await serveBy(lab, 'xen');
  }
}
