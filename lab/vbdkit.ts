/** vbdkit at work on a booted host: its helper in the place of Xen's block script, and vbdd running. */
import type { Lab, ServedBy } from './step.ts';

/** Kept with the logs of Xen, which are the evidence of a failed step. */
const log = '/var/log/xen/vbdd.log';
const pidFile = '/run/vbdd.pid';

/** Starts vbdd and waits until it serves, in one line: a driver domain's console takes one at a time. */
export const startScript = [
  `: > ${log}; setsid vbdd < /dev/null >> ${log} 2>&1 & echo $! > ${pidFile}`,
  `until grep -q 'is ready' ${log}; do kill -0 $! || { cat ${log}; exit 1; }; sleep 0.1; done`,
].join('; ');

/** Starts vbdd in dom0 and waits until it serves. */
export async function startVbdd({ dom0 }: Lab): Promise<void> {
  await dom0.run(startScript, { timeoutMs: 300_000 });
}

/** Ends vbdd as a crash would, or as systemd does. */
export async function stopVbdd({ dom0 }: Lab, signal: 'KILL' | 'TERM'): Promise<void> {
  await dom0.run(`
    pid=$(< ${pidFile}); kill -${signal} $pid
    while kill -0 $pid 2> /dev/null; do sleep 0.02; done`);
}

/**
 * Makes vbdkit serve this host's disks, or Xen's own script again. Starting Node is dear under
 * emulation, so a vbdd that runs is left running from step to step.
 */
export async function serveBy(lab: Lab, by: ServedBy): Promise<void> {
  const running = (await lab.dom0.attempt(`kill -0 $(< ${pidFile})`)).code === 0;
  if (by === 'vbdkit' && !running) {
    await lab.dom0.run('vbd setup', { timeoutMs: 300_000 });
    await startVbdd(lab);
  }
  if (by === 'xen') {
    if (running) await stopVbdd(lab, 'TERM');
    const undo = `rm -f ${pidFile} /etc/xen/vbdkit.conf; vbd setup --undo`;
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
