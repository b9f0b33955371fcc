/** `vbd doctor`: looks at this host, and says what is in the way of guests' disks and what to do about it. */
import { release } from 'node:os';
import { styleText } from 'node:util';
import { buildCommand, type Command } from '@stricli/core';
import { oneLine } from '../../base/log.ts';
import { type CliContext, writeJson } from '../context.ts';
import { type Finding, hostFolders } from '../doctor/finding.ts';
import { kernelFindings } from '../doctor/kernel.ts';
import { loopFindings } from '../doctor/loops.ts';
import { placeFindings } from '../doctor/places.ts';
import { serviceFindings } from '../doctor/services.ts';
import { jsonFlag } from '../words.ts';

const colours = { ok: 'green', warning: 'yellow', fault: 'red' } as const;

export const doctorCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Say what is in the way of guests' disks on this host, and what to do",
    fullDescription: [
      'It looks at the kernel and its drivers, the configuration, vbdd and vbd-tap and their limits,',
      "libxl's scripts, permissions, and, for root, loop devices that others left behind; it changes",
      'nothing.',
      'The exit code is 1 when there is a fault: no guest gets a disk until it is mended.',
    ].join('\n'),
  },
  parameters: { flags: { json: jsonFlag } },
  async func(this: CliContext, flags: { json: boolean }) {
    const findings = [
      ...kernelFindings(hostFolders, release()),
      ...(await serviceFindings(hostFolders, process.env['VBDKIT_SOCKET'])),
      ...placeFindings('/etc/xen/scripts'),
      ...(process.getuid?.() === 0 ? loopFindings(hostFolders) : []),
    ];
    if (findings.some(({ verdict }) => verdict === 'fault')) this.process.exitCode = 1;
    if (flags.json) writeJson(this, findings);
    else this.process.stdout.write(findings.map((each) => textOf(this, each)).join(''));
  },
});

function textOf({ process: { stdout } }: CliContext, finding: Finding): string {
  const { name, verdict, says, advice } = finding;
  const word = styleText(colours[verdict], verdict.padEnd(7), { stream: stdout });
  const todo = advice === null ? '' : `        → ${oneLine(advice)}\n`;
  return `${word} ${name}: ${oneLine(says)}\n${todo}`;
}
