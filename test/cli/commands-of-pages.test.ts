/** Commands that pages show: verbs and flags that there are. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { takeGlobalFlags } from '../../src/cli/global-flags.ts';
import { verbOf, verbs } from '../../src/cli/verbs.ts';
import { configKeys } from '../../src/daemon/config.ts';
import { home } from '../../src/sys/home.ts';

const pages = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.md'], {
  cwd: home,
  encoding: 'utf8',
})
  .split('\n')
  .filter((page) => page !== '');

/** Lines of blocks, and what stands in backquotes, that begin with the program's name. */
function commandsOf(text: string): string[] {
  const lines = [...text.matchAll(/^ {4}(vbd [^\n]*)/gm)].map(([, line = '']) =>
    line.replace(/ +#.*/, ''),
  );
  const quoted = [...text.matchAll(/`(vbd [^`]+)`/g)].map(([, line = '']) =>
    line.replaceAll(/\s+/g, ' '),
  );
  return [...lines, ...quoted];
}

/** What is wrong with a command; undefined: nothing. */
async function faultOf(line: string): Promise<string | undefined> {
  const [word = '', ...words] = takeGlobalFlags(line.split(/\s+/).slice(1)).rest;
  if (/^(?:VERB|--version|--help|…)/.test(word)) return undefined;
  // Several verbs at once: attach|detach.
  for (const name of word.split('|').map((each) => each.replace(/[;,.]$/, ''))) {
    const verb = verbOf(name);
    if (verb === undefined) return `there is no verb ${name}`;
    const { flags = {}, aliases = {} } = (await verbs[verb]?.load())?.parameters ?? {};
    const known = Object.keys(flags).map((flag) =>
      flag.replaceAll(/[A-Z]/g, (c) => `-${c.toLowerCase()}`),
    );
    // What follows -- or --run is another program's.
    const end = words.findIndex((each) => each === '--' || each === '--run');
    for (const each of end < 0 ? words : words.slice(0, end)) {
      const [, long, short] = /^\[?(?:--([a-z][a-z-]*)|-([a-zA-Z])\]?$)/.exec(each) ?? [];
      if (long !== undefined && ![...known, 'help'].includes(long))
        return `${verb} has no --${long}`;
      if (short !== undefined && !Object.hasOwn(aliases, short)) return `${verb} has no -${short}`;
    }
  }
  return undefined;
}

test('every command that a page shows has a verb and flags that there are', async () => {
  const faults: string[] = [];
  let count = 0;
  for (const page of pages) {
    for (const line of commandsOf(readFileSync(join(home, page), 'utf8'))) {
      count += 1;
      const fault = await faultOf(line);
      if (fault !== undefined) faults.push(`${page}: ${line}: ${fault}`);
    }
  }
  assert.deepEqual(faults, []);
  assert.ok(count > 100, `${count} commands were looked at`);
});

test('every key of the configuration that a page sets is there', () => {
  const keys = new Set(configKeys().map(({ name }) => name));
  const unknown = pages.flatMap((page) =>
    [
      ...readFileSync(join(home, page), 'utf8').matchAll(/(?:^ {4}|`)([a-z]+(?:_[a-z]+)+) = /gm),
    ].flatMap(([, key = '']) => (keys.has(key) ? [] : [`${page}: ${key}`])),
  );
  assert.deepEqual(unknown, []);
});
