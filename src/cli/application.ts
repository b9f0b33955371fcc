/** The command line as a library sees it: routes, help, and how failures are said. */
import { type Application, buildApplication, buildRouteMap, text_en } from '@stricli/core';
import { Failure, sentenceOf } from '../base/failure.ts';
import { readVersion } from '../sys/home.ts';
import type { CliContext } from './context.ts';
import { verbOf, verbs } from './verbs.ts';

/** With the verbs that this run needs: the one that is named, any for the version, or all of them, as for help. */
export async function loadApplication(
  word: string,
  verbose = false,
): Promise<Application<CliContext>> {
  const named = word === '--version' ? 'list' : verbOf(word);
  const wanted = named === undefined ? Object.keys(verbs) : [named];
  const routes = Object.fromEntries(
    await Promise.all(wanted.map(async (name) => [name, await loadVerb(name)] as const)),
  );
  const docs = {
    brief: "Disks of Xen guests, and this host's images",
    fullDescription: [
      "Disks of Xen guests, and this host's images. A guest is named by its name or its domid, a",
      "disk of it by xvda or its number. xl's names of verbs are understood, and before the verb -N:",
      'say what would be done; -v: say what vbdd is asked, and what is behind a failure; -T: begin each',
      'line on standard error with the time and the process. vbd VERB --help tells what a verb takes.',
    ].join('\n'),
  };
  return buildApplication(buildRouteMap({ routes, docs }), {
    name: 'vbd',
    versionInfo: { getCurrentVersion: async () => readVersion() },
    scanner: { caseStyle: 'allow-kebab-for-camel', allowArgumentEscapeSequence: true },
    documentation: {
      useAliasInUsageLine: true,
      onlyRequiredInUsageLine: true,
      disableAnsiColor: true,
    },
    completion: { includeAliases: false, includeHiddenRoutes: false },
    localization: {
      loadText: () => ({
        ...text_en,
        exceptionWhileRunningCommand: (thrown) => tell(thrown, verbose),
      }),
    },
    determineExitCode: (thrown) => (thrown instanceof Failure ? thrown.exitCode : 1),
  });
}

async function loadVerb(name: string) {
  const verb = verbs[name];
  if (verb === undefined) throw new Error(`there is no verb ${name}`);
  return verb.load();
}

/** One sentence for a failure of the world; a bug shows where it is. */
function tell(thrown: unknown, verbose: boolean): string {
  if (thrown instanceof Failure) {
    const behind = verbose ? causesOf(thrown).map((cause) => `\nvbd: behind it: ${cause}`) : [];
    return `vbd: ${thrown.message}${behind.join('')}`;
  }
  return `vbd: ${sentenceOf(thrown)}\n${thrown instanceof Error ? thrown.stack : ''}`;
}

function causesOf(failure: Failure): string[] {
  const causes: string[] = [];
  for (let next = failure.cause; next instanceof Error; next = next.cause)
    causes.push(next.message);
  return causes;
}
