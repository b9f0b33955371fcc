/** `vbd`: the command line. A verb's code is loaded only when it is used, so that a short one starts fast. */
import { constants } from 'node:os';
import { join } from 'node:path';
import { buildApplication, buildRouteMap, type Command, run, text_en } from '@stricli/core';
import { Failure, sentenceOf } from '../base/failure.ts';
import { type CliContext, cliContext } from './context.ts';

type Loader = () => Promise<Command<CliContext>>;

const verbs: Readonly<Record<string, Loader>> = {
  attach: async () => (await import('./commands/disks.ts')).attachCommand,
  detach: async () => (await import('./commands/disks.ts')).detachCommand,
  list: async () => (await import('./commands/disks.ts')).listCommand,
  why: async () => (await import('./commands/disks.ts')).whyCommand,
  resize: async () => (await import('./commands/resize.ts')).resizeCommand,
  stat: async () => (await import('./commands/traffic.ts')).statCommand,
  limit: async () => (await import('./commands/traffic.ts')).limitCommand,
  loop: async () => (await import('./commands/loop.ts')).loopCommand,
  spec: async () => (await import('./commands/spec.ts')).specCommand,
  setup: async () => (await import('./commands/setup.ts')).setupCommand,
  serve: async () => (await import('./commands/serve.ts')).serveCommand,
  info: async () => (await import('./commands/info.ts')).infoCommand,
  map: async () => (await import('./commands/map.ts')).mapCommand,
  check: async () => (await import('./commands/check.ts')).checkCommand,
  snapshot: async () => (await import('./commands/snapshot.ts')).snapshotCommand,
  commit: async () => (await import('./commands/commit.ts')).commitCommand,
  rebase: async () => (await import('./commands/rebase.ts')).rebaseCommand,
  repair: async () => (await import('./commands/repair.ts')).repairCommand,
  create: async () => (await import('./commands/create.ts')).createCommand,
  convert: async () => (await import('./commands/convert.ts')).convertCommand,
  compare: async () => (await import('./commands/compare.ts')).compareCommand,
  measure: async () => (await import('./commands/measure.ts')).measureCommand,
  demo: async () => (await import('./commands/demo.ts')).demoCommand,
};

/** xl's names for the same verbs. */
const aliases: Readonly<Record<string, string>> = {
  'block-attach': 'attach',
  'block-detach': 'detach',
  'block-list': 'list',
};

/** The verbs that this run needs: the one that is named, or all of them for help. */
async function loadRoutes(word: string | undefined): Promise<Record<string, Command<CliContext>>> {
  const verb = aliases[word ?? ''] ?? word ?? '';
  const wanted = Object.hasOwn(verbs, verb) ? [verb] : Object.keys(verbs);
  const loaded = wanted.map(async (name) => [name, await verbs[name]?.()] as const);
  const commands = (await Promise.all(loaded)).flatMap(([name, command]) =>
    command === undefined ? [] : [[name, command] as const],
  );
  return Object.fromEntries(commands);
}

async function readVersion(): Promise<string> {
  const { readFile } = await import('node:fs/promises');
  const path = join(import.meta.dirname, '..', '..', 'package.json');
  return (JSON.parse(await readFile(path, 'utf8')) as { version: string }).version;
}

async function main(argv: string[]): Promise<void> {
  const [word = '--help', ...rest] = argv;
  const routes = await loadRoutes(word);
  const app = buildApplication(
    buildRouteMap({ routes, docs: { brief: "Disks of Xen guests, and this host's images" } }),
    {
      name: 'vbd',
      versionInfo: { getCurrentVersion: readVersion },
      scanner: { caseStyle: 'allow-kebab-for-camel', allowArgumentEscapeSequence: true },
      documentation: { useAliasInUsageLine: true, disableAnsiColor: true },
      localization: {
        loadText: () => ({ ...text_en, exceptionWhileRunningCommand: (thrown) => tell(thrown) }),
      },
      determineExitCode: (thrown) => (thrown instanceof Failure ? thrown.exitCode : 1),
    },
  );
  // A reader that has seen enough, such as head: end as the signal would have ended us.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(128 + constants.signals.SIGPIPE);
  });
  await run(app, [aliases[word] ?? word, ...rest], cliContext(process));
  // stricli's own codes are negative; for a shell, wrong words are 2, which check has another use for.
  if (typeof process.exitCode === 'number' && process.exitCode < 0) {
    process.exitCode = word === 'check' || word === 'repair' ? 1 : 2;
  }
}

/** One sentence for a failure of the world; a bug shows where it is. */
function tell(thrown: unknown): string {
  if (thrown instanceof Failure) return `vbd: ${thrown.message}`;
  return `vbd: ${sentenceOf(thrown)}\n${thrown instanceof Error ? thrown.stack : ''}`;
}

await main(process.argv.slice(2));
