/** `vbd pause` and `vbd resume`: a guest's disk waits while the guest runs. */
import { buildCommand, type Command } from '@stricli/core';
import { type CliContext, writeJson } from '../context.ts';
import { guestWord, jsonFlag, vdevWord } from '../words.ts';

interface Flags {
  readonly json: boolean;
}

const parameters = {
  flags: { json: { ...jsonFlag, brief: 'Print JSON: the disk as it is then' } },
  positional: { kind: 'tuple', parameters: [guestWord, vdevWord] },
} as const;

export const pauseCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Have a guest's disk wait",
    fullDescription: [
      'Done when nothing is under way: until vbd resume the image stays as it is then, as after a',
      'loss of power, for a copy or a snapshot of it. The guest runs on, and waits for what it asks.',
      'For disks that vbd-tap serves on their rings; it holds when vbd-tap or vbdd is restarted, and',
      'ends when the guest does, reboots or migrates, and when the disk is detached.',
    ].join('\n'),
  },
  parameters,
  func(this: CliContext, flags: Flags, guest: string, vdev: string) {
    return set(this, flags, { guest, vdev }, true);
  },
});

export const resumeCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Let a guest's disk go on",
    fullDescription: 'Fails when it is not paused: what was copied meanwhile may not be whole.',
  },
  parameters,
  func(this: CliContext, flags: Flags, guest: string, vdev: string) {
    return set(this, flags, { guest, vdev }, false);
  },
});

async function set(
  context: CliContext,
  { json }: Flags,
  path: { readonly guest: string; readonly vdev: string },
  paused: boolean,
): Promise<void> {
  const client = context.client();
  await client.ask('PUT /v1/disks/{guest}/{vdev}/paused', { path, body: { paused } });
  if (json) writeJson(context, await client.ask('GET /v1/disks/{guest}/{vdev}', { path }));
}
