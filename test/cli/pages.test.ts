/** What is made from the tables of verbs, options and keys: manual pages, the configuration's file, completion. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { verbs } from '../../src/cli/verbs.ts';
import { configKeys, loadConfig } from '../../src/daemon/config.ts';
import { home } from '../../src/sys/home.ts';
import { defaultConfigText } from '../../tools/pages/config-text.ts';
import { pageNames, pageSource, writePages } from '../../tools/pages/pages.ts';
import { needsProgram } from '../peers.ts';

const dir = mkdtempSync(join(tmpdir(), 'vbdkit-pages-'));
after(() => rmSync(dir, { recursive: true }));
const completion = join(home, 'completion', 'vbd');

test('mandoc finds no fault in the manual pages', needsProgram('scdoc', 'mandoc'), async () => {
  await writePages(dir);
  const pages = pageNames().map((name) => join(dir, name));
  assert.equal(pages.length, 6);
  execFileSync('mandoc', ['-T', 'lint', '-W', 'style', ...pages], { stdio: 'pipe' });
});

test(
  'a page has what it explains below its name, indented',
  needsProgram('scdoc', 'mandoc'),
  () => {
    const page = execFileSync('mandoc', ['-T', 'ascii', join(dir, 'vbdd.8')], { encoding: 'utf8' });
    const text = page.replaceAll(/.\u0008/g, '');
    assert.match(text, /^ {7}\/run\/vbdkit\/vbdd\.sock\n {11}The control socket: /m);
    assert.match(text, /^ {7}--config FILE\n {11}\w/m);
  },
);

test('every verb is on a page, with every flag that it has', async () => {
  const sources = await Promise.all(pageNames().map(pageSource));
  for (const [name, { load }] of Object.entries(verbs)) {
    const section = sources
      .flatMap((text) => text.split(/^#+ /m))
      .filter((part) => part.startsWith(`vbd ${name}\n`));
    assert.equal(section.length, 1, name);
    for (const flag of Object.keys((await load()).parameters.flags ?? {})) {
      const word = `*--${flag.replaceAll(/[A-Z]/g, (capital) => `-${capital.toLowerCase()}`)}*`;
      assert.ok(section[0]?.includes(word), `vbd ${name} ${word}`);
    }
  }
});

test('the file that is installed changes nothing, and each of its lines may be said', () => {
  const installed = join(dir, 'vbdkit.conf');
  writeFileSync(installed, defaultConfigText());
  const defaults = loadConfig(installed);
  assert.deepEqual(
    Object.keys(defaults),
    configKeys().map(({ name }) => name),
  );
  const said = join(dir, 'said.conf');
  writeFileSync(said, defaultConfigText().replaceAll(/^#(\w+ = )/gm, '$1'));
  assert.deepEqual(loadConfig(said), defaults);
  assert.equal(readFileSync(said, 'utf8').match(/^\w+ = /gm)?.length, configKeys().length);
  for (const { name, description } of configKeys()) assert.match(description, /^\S.*\.$/, name);
});

test('bash completes verbs, options and their values', needsProgram('bash'), () => {
  const complete = (...words: string[]): string => {
    const script = `source ${completion}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vbd; echo "\${COMPREPLY[*]}"`;
    const args = ['-c', script, 'bash', join(home, 'bin', 'vbd'), ...words];
    return execFileSync('bash', args, { encoding: 'utf8' }).trim();
  };
  assert.equal(complete('conv'), 'convert');
  assert.equal(complete('map', '--out'), '--output');
  assert.equal(complete('map', '--output', '=', 'h'), 'human');
  assert.equal(complete('map', '--output', '='), 'human json');
  assert.equal(complete('info', '/et'), '', 'files are left to bash');
});

test('shellcheck finds no fault in the completion', needsProgram('shellcheck'), () => {
  execFileSync('shellcheck', [completion], { stdio: 'pipe' });
});
