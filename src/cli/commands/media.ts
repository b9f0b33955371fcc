/** `vbd insert` and `vbd eject`: what is in a guest's CD-ROM drive. */
import { buildCommand, type Command } from '@stricli/core';
import { type CliContext, writeJson } from '../context.ts';
import { parseText } from '../parse-text.ts';
import { guestWord, jsonFlag, vdevWord } from '../words.ts';

interface Flags {
  readonly json: boolean;
}

const flags = { json: { ...jsonFlag, brief: 'Print JSON: the disk as it is then' } };
const drive = { ...vdevWord, brief: 'The drive: xvdd, or its number' };
const target = {
  brief: 'FORMAT:PATH of an image, or the path of a raw file or device',
  parse: parseText,
  placeholder: 'target',
} as const;

export const insertCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Put an image into a guest's CD-ROM drive",
    fullDescription: 'What was in it is taken out. Drives of device models are changed by xl.',
  },
  parameters: { flags, positional: { kind: 'tuple', parameters: [guestWord, drive, target] } },
  async func(this: CliContext, flags: Flags, guest: string, vdev: string, target: string) {
    await change(this, flags, { guest, vdev }, { target });
  },
});

export const ejectCommand: Command<CliContext> = buildCommand({
  docs: { brief: "Empty a guest's CD-ROM drive" },
  parameters: { flags, positional: { kind: 'tuple', parameters: [guestWord, drive] } },
  async func(this: CliContext, flags: Flags, guest: string, vdev: string) {
    await change(this, flags, { guest, vdev }, {});
  },
});

async function change(
  context: CliContext,
  { json }: Flags,
  path: { readonly guest: string; readonly vdev: string },
  body: { readonly target?: string },
): Promise<void> {
  const client = context.client();
  await client.ask('PUT /v1/disks/{guest}/{vdev}/medium', { path, body });
  if (json) writeJson(context, await client.ask('GET /v1/disks/{guest}/{vdev}', { path }));
}
