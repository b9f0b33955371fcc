/** The verbs on guests' disks: attach, detach, list, why. Each is one request to vbdd. */
import { buildCommand, type Command } from '@stricli/core';
import { formatMs } from '../../base/units.ts';
import type { DryRun } from '../../daemon/verbs.ts';
import type { DiskView, WhyView } from '../../daemon/views.ts';
import { type CliContext, writeJson } from '../context.ts';
import { formatTable } from '../table.ts';

const json = { kind: 'boolean', brief: 'Print JSON', default: false } as const;
const text = (value: string): string => value;
const guest = { brief: 'Name or domid of the guest', parse: text, placeholder: 'guest' } as const;
const vdev = { brief: 'The disk: xvda, or its number', parse: text, placeholder: 'vdev' } as const;

function diskPath(guest: string, vdev: string): string {
  return `/v1/disks/${encodeURIComponent(guest)}/${encodeURIComponent(vdev)}`;
}

export const attachCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Attach a disk to a running guest' },
  parameters: {
    flags: {
      json,
      dryRun: { kind: 'boolean', brief: 'Say what would be done, do nothing', default: false },
      shared: { kind: 'boolean', brief: 'Write beside other writers', default: false },
    },
    positional: {
      kind: 'array',
      minimum: 2,
      parameter: { brief: 'Guest, then the disk specification', parse: text, placeholder: 'word' },
    },
  },
  async func(
    this: CliContext,
    flags: { json: boolean; dryRun: boolean; shared: boolean },
    ...[guest = '', ...spec]: string[]
  ) {
    const body = { guest, spec, shared: flags.shared, dry_run: flags.dryRun };
    const answer = await this.client().call<DiskView & DryRun>('POST', '/v1/disks', body);
    if (flags.json) writeJson(this, answer);
    else if (flags.dryRun) this.process.stdout.write(planText(answer));
    else this.process.stdout.write(attachedText(answer));
  },
});

function attachedText(disk: DiskView): string {
  const time = disk.holdMs === null ? '' : ` in ${formatMs(disk.holdMs)}`;
  return `${disk.vdev} of ${disk.guest ?? disk.domid} is ${disk.path} on ${disk.device}${time}\n`;
}

function planText(plan: DryRun): string {
  const because = plan.because.map((fact) => `because ${fact}`);
  const steps = plan.steps.map((step) => `would ${step}`);
  return `${[...because, ...steps].join('\n')}\n`;
}

export const detachCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Detach a disk from a running guest' },
  parameters: {
    flags: {
      force: { kind: 'boolean', brief: 'Even if the guest does not let go of it', default: false },
    },
    aliases: { f: 'force' },
    positional: { kind: 'tuple', parameters: [guest, vdev] },
  },
  async func(this: CliContext, flags: { force: boolean }, guest: string, vdev: string) {
    const path = `${diskPath(guest, vdev)}${flags.force ? '?force=1' : ''}`;
    await this.client().call('DELETE', path);
  },
});

export const listCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'List the disks of all guests, or of some' },
  parameters: {
    flags: { json },
    positional: { kind: 'array', parameter: { ...guest, placeholder: 'guest' } },
  },
  async func(this: CliContext, flags: { json: boolean }, ...guests: string[]) {
    const { disks } = await this.client().call<{ disks: DiskView[] }>('GET', '/v1/disks');
    const wanted = disks.filter(
      (disk) =>
        guests.length === 0 ||
        guests.includes(String(disk.domid)) ||
        (disk.guest !== null && guests.includes(disk.guest)),
    );
    if (flags.json) return writeJson(this, wanted);
    const headings = ['Guest', 'Domid', 'Vdev', 'State', 'Mode', 'Device', 'Shared', 'Path'];
    const rows = wanted.map((disk) => [
      disk.guest,
      disk.domid,
      disk.vdev,
      disk.state,
      disk.mode,
      disk.device,
      disk.sharers,
      disk.path,
    ]);
    this.process.stdout.write(formatTable(headings, rows));
  },
});

export const whyCommand: Command<CliContext> = buildCommand({
  docs: { brief: 'Say why a disk is as it is, and what would be done about it' },
  parameters: { flags: { json }, positional: { kind: 'tuple', parameters: [guest, vdev] } },
  async func(this: CliContext, flags: { json: boolean }, guest: string, vdev: string) {
    const why = await this.client().call<WhyView>('GET', `${diskPath(guest, vdev)}/why`);
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
