/** `vbd setup`: puts vbdkit's helper where libxl looks for its block script, and takes it away again. */
import { resolve } from 'node:path';
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { type CliContext, writeJson } from '../context.ts';
import { asideOnHost } from '../aside.ts';
import { changesToSetUp, changesToUndo, placesByDefault, RECORD_PATH } from '../script-place.ts';

interface SetupFlags {
  readonly undo: boolean;
  readonly dryRun: boolean;
  readonly json: boolean;
  readonly scriptDir: string;
  readonly qdisk: boolean;
  readonly deviceModel: string;
  readonly dpkgDir?: string;
  readonly record: string;
}

export const setupCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Take the place of Xen’s block script, or give it back',
    fullDescription: [
      'vbd setup: xl hands every disk of the kind vbd to vbdkit; no guest’s configuration changes.',
      'vbd setup --qdisk: also images that xl hands to qemu; guests that need qemu itself still get it.',
      'vbd setup --undo: everything is as it was. Both may be run again at any time.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      undo: { kind: 'boolean', brief: 'Give the place back', default: false },
      dryRun: { kind: 'boolean', brief: 'Say what would be done, do nothing', default: false },
      json: { kind: 'boolean', brief: 'Print JSON', default: false, withNegated: false },
      scriptDir: {
        kind: 'parsed',
        parse: (path: string) => resolve(path),
        brief: 'Where libxl looks for scripts',
        default: '/etc/xen/scripts',
      },
      qdisk: {
        kind: 'boolean',
        brief: 'Take the place of the program that serves qdisk, too',
        default: false,
      },
      deviceModel: {
        kind: 'parsed',
        parse: (path: string) => resolve(path),
        brief: 'The program that libxl starts to serve qdisk',
        default: '/usr/libexec/xen-qemu-system-i386',
      },
      dpkgDir: {
        kind: 'parsed',
        parse: String,
        brief: 'dpkg’s database, where it is not the system’s',
        optional: true,
      },
      record: {
        kind: 'parsed',
        parse: (path: string) => resolve(path),
        brief: 'Where what is moved and is not dpkg’s is noted',
        default: RECORD_PATH,
      },
    },
    positional: { kind: 'tuple', parameters: [] },
  },
  func(this: CliContext, flags: SetupFlags) {
    const { json, undo, dryRun, scriptDir, deviceModel, qdisk, record, dpkgDir } = flags;
    const say = (line: string): void => {
      this.process.stdout.write(`${line}\n`);
    };
    const aside = asideOnHost(record, dpkgDir);
    const options = {
      ...placesByDefault(),
      scriptDir,
      deviceModel,
      withDeviceModel: qdisk,
      aside,
    };
    const changes = undo ? changesToUndo(options) : changesToSetUp(options);
    if (changes.length === 0 && !json) return say('nothing is to be done');
    if (!dryRun && process.getuid?.() !== 0) {
      throw new Failure('denied', 'only root may change where libxl finds its scripts — use sudo');
    }
    for (const { says, run } of changes) {
      if (!dryRun) run();
      if (!json) say(dryRun ? `would ${says}` : says);
    }
    if (json) writeJson(this, { done: !dryRun, changes: changes.map(({ says }) => says) });
  },
});
