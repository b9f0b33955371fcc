/** `vbd why`: the facts about one disk, and what follows from them. */
import { buildCommand, type Command } from '@stricli/core';
import { type CliContext, writeJson } from '../context.ts';
import { planText } from '../plan-text.ts';
import { formatTable } from '../table.ts';
import { guestWord, jsonFlag, vdevWord } from '../words.ts';

export const whyCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Say why a disk is as it is, and what would be done about it' },
  parameters: {
    flags: { json: jsonFlag },
    positional: { kind: 'tuple', parameters: [guestWord, vdevWord] },
  },
  async func(this: CliContext, flags: { json: boolean }, guest: string, vdev: string) {
    const why = await this.client().ask('GET /v1/disks/{guest}/{vdev}/why', {
      path: { guest, vdev },
    });
    if (flags.json) return writeJson(this, why);
    const { disk } = why;
    const head = `${disk.vdev} of ${disk.guest ?? disk.domid}: ${disk.state}\n`;
    const error = disk.error === null ? '' : `error: ${disk.error}\n`;
    const facts = Object.entries(why.facts).map(
      ([name, value]) => [name.replaceAll('_', ' '), plain(value)] as const,
    );
    this.process.stdout.write(head + error + planText(why) + formatTable(['Fact', 'Value'], facts));
  },
});

function plain(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
