/** `vbd events`: what happens to guests' disks, as it happens. */
import { buildCommand, type Command } from '@stricli/core';
import { oneLine } from '../../base/log.ts';
import type { DiskEvent } from '../../daemon/api/shapes.ts';
import type { CliContext } from '../context.ts';
import { isGuest, guestWord, jsonFlag } from '../words.ts';

export const eventsCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Print what happens to guests' disks, as it happens",
    fullDescription: [
      'One line an event: attached, paused, refused, waiting, closing, foreign, changed, gone; with',
      '--json each is an object on a line of its own. It ends with vbdd, or by a signal.',
    ].join('\n'),
  },
  parameters: {
    flags: { json: { ...jsonFlag, brief: 'Print a line of JSON for each' } },
    positional: { kind: 'array', parameter: guestWord },
  },
  async func(this: CliContext, flags: { json: boolean }, ...guests: string[]) {
    await this.client().follow((event) => {
      if (!('disk' in event)) return;
      if (guests.length > 0 && !guests.some((guest) => isGuest(event.disk, guest))) return;
      const line = flags.json ? JSON.stringify(event) : textOf(event);
      this.process.stdout.write(`${line}\n`);
    });
  },
});

function textOf({ time, event, disk }: DiskEvent): string {
  const { vdev, guest, domid, path, device, error } = disk;
  const what = `${vdev} of ${guest ?? `domain ${domid}`}: ${path}`;
  const where = device === null ? '' : ` on ${device}`;
  return oneLine(`${time} ${event} ${what}${where}${error === null ? '' : ` — ${error}`}`);
}
