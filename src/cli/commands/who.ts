/** `vbd who`: who uses a file or a block device, by whatever name. */
import { resolve } from 'node:path';
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import type { UserView } from '../../daemon/api/shapes.ts';
import { type CliContext, writeJson } from '../context.ts';
import {
  type ColumnFlags,
  columnFlags,
  type Columns,
  columnTable,
  describeColumns,
  jsonFlag,
} from '../words.ts';

const columns: Columns<UserView> = {
  type: { heading: 'Type', brief: 'guest, host or loop lease', of: ({ type }) => type },
  mode: { heading: 'Mode', brief: 'r, w, or w! for shared writing', of: ({ mode }) => mode },
  user: { heading: 'User', brief: 'who it is', of: ({ user }) => user },
  path: { heading: 'Path', brief: 'the name under which it is used', of: ({ path }) => path },
};
const usual = ['mode', 'user', 'path'];

interface WhoFlags extends ColumnFlags {
  readonly json: boolean;
}

export const whoCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Say who uses a file or a block device',
    fullDescription: [
      'Found by what it is, not by its name: links, devices on it and devices that it stands on',
      'count, and so do the parents of images. The exit code is 0 when somebody uses it, 1 when nobody',
      'does, and 2 when that cannot be told.',
      describeColumns(columns),
    ].join('\n'),
  },
  parameters: {
    flags: { json: jsonFlag, ...columnFlags(columns) },
    aliases: { o: 'columns' },
    positional: {
      kind: 'tuple',
      parameters: [
        {
          brief: 'The file or device',
          parse: (path: string) => resolve(path),
          placeholder: 'file',
        },
      ],
    },
  },
  async func(this: CliContext, flags: WhoFlags, path: string) {
    const users = await usersOf(this, path);
    if (users === undefined) return;
    if (users.length === 0) this.process.exitCode = 1;
    if (flags.json) return writeJson(this, users);
    if (users.length === 0) this.process.stderr.write(`vbd: nobody uses ${path}\n`);
    else this.process.stdout.write(columnTable(columns, usual, users, flags));
  },
});

/** Undefined when that cannot be told: a script must not take that for «nobody». */
async function usersOf(
  context: CliContext,
  path: string,
): Promise<readonly UserView[] | undefined> {
  try {
    return (await context.client().ask('GET /v1/users', { query: { path } })).users;
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    context.process.stderr.write(`vbd: ${thrown.message}\n`);
    context.process.exitCode = 2;
    return undefined;
  }
}
