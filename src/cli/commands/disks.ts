/** `vbd attach` and `vbd detach`: each is one request to vbdd. */
import { buildCommand, type Command } from '@stricli/core';
import { formatMs } from '../../base/units.ts';
import type { DryRun } from '../../daemon/verbs.ts';
import type { DiskView } from '../../daemon/views.ts';
import { type CliContext, writeJson } from '../context.ts';
import { parseText } from '../parse-text.ts';
import { planText } from '../plan-text.ts';
import { diskPath, guestWord, jsonFlag, guestsThere, vdevWord } from '../words.ts';

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
    const body = { guest, spec, shared: flags.shared, dry_run: flags.dryRun };
    const answer = await this.client().call<DiskView & DryRun>('POST', '/v1/disks', body);
    if (flags.json) writeJson(this, answer);
    else if (flags.dryRun) this.process.stdout.write(planText(answer));
    else this.process.stdout.write(attachedText(answer));
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

export const detachCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Detach a disk from a running guest' },
  parameters: {
    flags: {
      force: { ...off, brief: 'Even if the guest does not let go of it' },
    },
    aliases: { f: 'force' },
    positional: { kind: 'tuple', parameters: [guestWord, vdevWord] },
  },
  async func(this: CliContext, flags: { force: boolean }, guest: string, vdev: string) {
    const path = `${diskPath(guest, vdev)}${flags.force ? '?force=1' : ''}`;
    await this.client().call('DELETE', path);
  },
});
