/** What no linter knows: the direction of imports between the rooms, and a few habits of the tree. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

const root = join(import.meta.dirname, '..');

/** Low to high: a room imports only from itself and from rooms before it (docs/architecture.md). */
const rooms = [
  'base',
  'sys',
  'bytes',
  'xenstore',
  'image',
  'ring',
  'nbd',
  'disk',
  'backend',
  'tap',
  'host',
  'daemon',
  'cli',
];

function tracked(pattern: RegExp): string[] {
  const options = { cwd: root, encoding: 'utf8' } as const;
  return execFileSync('git', ['ls-files', '-co', '--exclude-standard'], options)
    .split('\n')
    .filter((path) => pattern.test(path));
}

function importsOf(path: string): string[] {
  const text = readFileSync(join(root, path), 'utf8');
  const found = text.matchAll(/^(?:import|export)\s[^;]*?from '([^']+)'|import\('([^']+)'\)/gm);
  return [...found].map((match) => match[1] ?? match[2] ?? '');
}

/** The browser's code, which no room imports: it speaks to vbdd by the API. */
const isPage = (path: string): boolean => path.startsWith('src/page/');
const allSources = tracked(/^src\/.*\.tsx?$/);
const sources = allSources.filter((path) => !isPage(path));

test('every source file lives in a known room', () => {
  const strays = sources.filter((path) => !rooms.includes(path.split('/')[1] ?? ''));
  assert.deepEqual(strays, []);
});

test('a room imports only from rooms before it', () => {
  const upward: string[] = [];
  for (const path of sources) {
    const from = rooms.indexOf(path.split('/')[1] ?? '');
    for (const name of importsOf(path).filter((name) => name.startsWith('.'))) {
      const target = normalize(join(dirname(path), name));
      if (rooms.indexOf(target.split('/')[1] ?? '') > from)
        upward.push(`${path} imports ${target}`);
    }
  }
  assert.deepEqual(upward, []);
});

test('the page imports its own files, its two libraries, and types of the API', () => {
  const others = allSources.filter(isPage).flatMap((path) => {
    const text = readFileSync(join(root, path), 'utf8');
    const types = new Set(
      [...text.matchAll(/^import type [^;]*? from '([^']+)'/gm)].map((match) => match[1] ?? ''),
    );
    return importsOf(path)
      .filter((name) => !/^(\.\/[\w-]+\.tsx?|preact(\/hooks)?|uplot)$/.test(name))
      .filter((name) => !(types.has(name) && name.startsWith('../daemon/api/')))
      .map((name) => `${path} imports ${name}`);
  });
  assert.deepEqual(others, []);
});

test('only sys/ffi.ts imports koffi', () => {
  const others = sources.filter((path) => importsOf(path).includes('koffi'));
  assert.deepEqual(others, ['src/sys/ffi.ts']);
});

test('the rooms that are pure do not import the world', () => {
  const world = /^node:(fs|net|child_process|worker_threads|http)/;
  const pure = /^src\/(base|disk)\//;
  const impure = sources
    .filter((path) => pure.test(path))
    .flatMap((path) =>
      importsOf(path).filter((name) => world.test(name) || name.includes('/sys/')),
    );
  assert.deepEqual(impure, []);
});

test('every source file opens with one sentence that says what it is for', () => {
  const silent = allSources.filter((path) => {
    const text = readFileSync(join(root, path), 'utf8').replace(/^#!.*\n/, '');
    return !text.startsWith('/**');
  });
  assert.deepEqual(silent, []);
});

test('every exported function has a sentence that says what it does', () => {
  const silent = allSources.flatMap((path) => {
    const lines = readFileSync(join(root, path), 'utf8').split('\n');
    return lines.flatMap((line, index) => {
      const name = /^export (?:async )?function\*? (\w+)/.exec(line)?.[1];
      const before = lines[index - 1] ?? '';
      // Of several signatures the first is explained.
      const isNext = new RegExp(`^export (?:async )?function ${name}\\b`).test(before);
      return name === undefined || before.endsWith('*/') || isNext ? [] : [`${path}: ${name}`];
    });
  });
  assert.deepEqual(silent, []);
});

test('nothing is left unfinished, silenced or tied to one machine', () => {
  const banned = [
    new RegExp(`\\b(${['TO', 'FIX'].map((a, i) => a + ['DO', 'ME'][i]).join('|')})\\b`),
    /@ts-(ignore|nocheck|expect-error)/,
    /(oxlint|eslint)-disable/,
    /\b(test|it|describe)\.(only|todo)\(/,
    /https?:\/\/registry\./,
    /(^|[^\w.])\/(work|farm)\//,
  ];
  const found: string[] = [];
  for (const path of tracked(/\.(tsx?|css|html|md|sh|json|c|js|scd)$|^bin\/|^\.ci\//)) {
    const lines = readFileSync(join(root, path), 'utf8').split('\n');
    for (const [index, line] of lines.entries()) {
      if (banned.some((rule) => rule.test(line)))
        found.push(`${path}:${index + 1}: ${line.trim()}`);
    }
  }
  assert.deepEqual(
    found.filter((line) => !line.startsWith('test/tidy.test.ts')),
    [],
  );
});

test('what a page links to, and every file that it names, is there', () => {
  const lost: string[] = [];
  for (const page of tracked(/\.md$/)) {
    const text = readFileSync(join(root, page), 'utf8');
    const links = [...text.matchAll(/\]\(([^)#]+)[^)]*\)/g)]
      .map(([, link = '']) => link)
      .filter((link) => !/^[a-z]+:/.test(link))
      .map((link) => normalize(join(dirname(page), link)));
    const named = [...text.matchAll(/`((?:src|test|lab|bench|tools|systemd|libexec)\/[\w./-]+)`/g)];
    for (const path of [...links, ...named.map(([, path = '']) => path)]) {
      const isExample = path.includes('NAME');
      if (!isExample && !existsSync(join(root, path))) lost.push(`${page} names ${path}`);
    }
  }
  assert.deepEqual(lost, []);
});
