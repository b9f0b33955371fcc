/** What every command is given: streams, exit code, and the way to vbdd. */
import type { CommandContext } from '@stricli/core';
import { type Client, DEFAULT_SOCKET, openClient } from './client.ts';

export interface CliContext extends CommandContext {
  readonly process: CommandContext['process'] &
    NodeJS.Process & { exitCode: number | string | null };
  /** The vbdd that this host runs. */
  client(): Client;
}

export function cliContext(process: NodeJS.Process): CliContext {
  return {
    process: process as CliContext['process'],
    client: () => openClient(process.env['VBDKIT_SOCKET'] ?? DEFAULT_SOCKET),
  };
}

/** Writes a value as JSON, as every `--json` does. */
export function writeJson(context: CliContext, value: unknown): void {
  context.process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
