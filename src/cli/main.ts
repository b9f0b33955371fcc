/** `vbd`: the command line. A verb's code is loaded only when it is used, so that a short one starts fast. */
import { constants } from 'node:os';
import { run } from '@stricli/core';
import { loadApplication } from './application.ts';
import { cliContext } from './context.ts';
import { stampLines, takeGlobalFlags } from './global-flags.ts';
import { verbOf } from './verbs.ts';

/** The words as the library takes them: xl's names are ours, its -N is said after the verb. */
function wordsOf(argv: readonly string[], dryRun: boolean): string[] {
  const [word = '--help', ...rest] = argv;
  return [verbOf(word) ?? word, ...(dryRun ? ['--dry-run'] : []), ...rest];
}

async function main(argv: string[]): Promise<void> {
  // A reader that has seen enough, such as head: end as the signal would have ended us.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(128 + constants.signals.SIGPIPE);
  });
  const { flags, rest } = takeGlobalFlags(argv);
  const context = cliContext(process, { verbose: flags.verbose });
  if (rest[0] === '__complete') {
    const { complete } = await import('./complete.ts');
    return complete(rest.slice(1), context);
  }
  if (flags.timestamps) stampLines(process.stderr, process.pid);
  const words = wordsOf(rest, flags.dryRun);
  const [word = ''] = words;
  await run(await loadApplication(word, flags.verbose), words, context);
  // stricli's own codes are negative; for a shell, wrong words are 2, which check has another use for.
  if (typeof process.exitCode === 'number' && process.exitCode < 0) {
    process.exitCode = word === 'check' || word === 'repair' ? 1 : 2;
  }
}

await main(process.argv.slice(2));
