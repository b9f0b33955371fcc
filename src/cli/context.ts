/** What every command is given: streams, exit code, and the way to vbdd. */
import { createRequire } from 'node:module';
import type { CommandContext } from '@stricli/core';
import type * as vbddClient from './client.ts';

export interface CliContext extends CommandContext {
  readonly process: CommandContext['process'] &
    NodeJS.Process & { exitCode: number | string | null };
  /** For completion: the verb's words before the one that is completed. */
  readonly words: readonly string[];
  /** Whether to say what vbdd is asked. */
  readonly verbose: boolean;
  /** The vbdd that this host runs. */
  client(): vbddClient.Client;
}

/** Verbs on images do without the client. */
const load = createRequire(import.meta.url);

/** The context of this process. */
export function cliContext(
  process: NodeJS.Process,
  { verbose = false, words = [] }: Partial<Pick<CliContext, 'verbose' | 'words'>>,
): CliContext {
  return {
    process: process as CliContext['process'],
    words,
    verbose,
    client() {
      const { DEFAULT_SOCKET, openClient } = load('./client.ts') as typeof vbddClient;
      const tell = (line: string): void => void process.stderr.write(`vbd: ${line}\n`);
      return openClient(process.env['VBDKIT_SOCKET'] ?? DEFAULT_SOCKET, verbose ? tell : undefined);
    },
  };
}

/** Writes a value as JSON, as every `--json` does. */
export function writeJson(context: CliContext, value: unknown): void {
  context.process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}
