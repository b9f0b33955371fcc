/** `vbd attach` and `vbd detach`: each is one request to vbdd. */
import { buildCommand, type Command } from '@stricli/core';
import { formatMs } from '../../base/units.ts';
import type { DiskView } from '../../daemon/api/shapes.ts';
import { type CliContext, writeJson } from '../context.ts';
import { parseText } from '../parse-text.ts';
import { planText } from '../plan-text.ts';
import { guestWord, jsonFlag, guestsThere, vdevWord } from '../words.ts';

interface AttachFlags {
  readonly json: boolean;
  readonly dryRun: boolean;
  readonly shared: boolean;
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;

export const attachCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Attach a disk to a running guest',
    customUsage: ['GUEST DISK...'],
    fullDescription: [
      'The disk is a specification as xl-disk-configuration(5) has it, in one word or several:',
      'vbd attach web /srv/web.vmdk,vmdk,xvda,rw',
    ].join('\n'),
  },
  parameters: {
    flags: {
      json: jsonFlag,
      dryRun: { ...off, brief: 'Say what would be done, do nothing' },
      shared: { ...off, brief: 'Write beside other writers' },
    },
    positional: {
      kind: 'array',
      minimum: 2,
      parameter: {
        brief: 'Guest, then the disk specification',
        parse: parseText,
        placeholder: 'word',
        proposeCompletions: proposeFirst,
      },
    },
  },
  async func(this: CliContext, flags: AttachFlags, ...[guest = '', ...spec]: string[]) {
    const body = { guest, spec, shared: flags.shared };
    const tell = <T extends object>(answer: T, textOf: (answer: T) => string): void => {
      if (flags.json) writeJson(this, answer);
      else this.process.stdout.write(textOf(answer));
    };
    if (flags.dryRun) tell(await this.client().ask('POST /v1/dry-run', { body }), planText);
    else tell(await this.client().ask('POST /v1/disks', { body }), attachedText);
  },
});

/** Of a disk's words the first is the guest, the others begin with a file. */
async function proposeFirst(this: CliContext): Promise<string[]> {
  const given = this.words.filter((word) => !word.startsWith('-'));
  return given.length === 0 ? guestsThere(this) : [];
}

function attachedText(disk: DiskView): string {
  const time = disk.hold_ms === null ? '' : ` in ${formatMs(disk.hold_ms)}`;
  return `${disk.vdev} of ${disk.guest ?? disk.domid} is ${disk.path} on ${disk.device}${time}\n`;
}

interface DetachFlags {
  readonly force: boolean;
  readonly json: boolean;
}

export const detachCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Detach a disk from a running guest' },
  parameters: {
    flags: {
      force: { ...off, brief: 'Even if the guest does not let go of it' },
      json: { ...jsonFlag, brief: 'Print JSON: the disk as it was' },
    },
    aliases: { f: 'force' },
    positional: { kind: 'tuple', parameters: [guestWord, vdevWord] },
  },
  async func(this: CliContext, flags: DetachFlags, guest: string, vdev: string) {
    const query = { force: flags.force ? '1' : '0' } as const;
    const path = { guest, vdev };
    const client = this.client();
    const was = flags.json ? await client.ask('GET /v1/disks/{guest}/{vdev}', { path }) : undefined;
    await client.ask('DELETE /v1/disks/{guest}/{vdev}', { path, query });
    if (was !== undefined) writeJson(this, was);
  },
});
