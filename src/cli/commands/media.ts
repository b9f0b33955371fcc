/** `vbd insert` and `vbd eject`: what is in a guest's CD-ROM drive. */
import { buildCommand, type Command } from '@stricli/core';
import type { CliContext } from '../context.ts';

const text = (value: string): string => value;
const guest = { brief: 'Name or domid of the guest', parse: text, placeholder: 'guest' } as const;
const vdev = { brief: 'The drive: xvdd, or its number', parse: text, placeholder: 'vdev' } as const;
const target = {
  brief: 'FORMAT:PATH of an image, or the path of a raw file or device',
  parse: text,
  placeholder: 'target',
} as const;

function mediumPath(guest: string, vdev: string): string {
  return `/v1/disks/${encodeURIComponent(guest)}/${encodeURIComponent(vdev)}/medium`;
}

export const insertCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Put an image into a guest's CD-ROM drive",
    fullDescription: 'What was in it is taken out. Drives of device models are changed by xl.',
  },
  parameters: { flags: {}, positional: { kind: 'tuple', parameters: [guest, vdev, target] } },
  async func(this: CliContext, _: object, guest: string, vdev: string, target: string) {
    await this.client().call('PUT', mediumPath(guest, vdev), { target });
  },
});

export const ejectCommand: Command<CliContext> = buildCommand({
  docs: { brief: "Empty a guest's CD-ROM drive" },
  parameters: { flags: {}, positional: { kind: 'tuple', parameters: [guest, vdev] } },
  async func(this: CliContext, _: object, guest: string, vdev: string) {
    await this.client().call('PUT', mediumPath(guest, vdev), {});
  },
});
