/** What pages for programmers call by its name is called so in the source. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { home } from '../../src/sys/home.ts';

const pages = ['add-a-format', 'add-a-transport', 'architecture'];

/** Everything that is written in these folders. */
function allText(...folders: string[]): string {
  const files = folders.flatMap((folder) =>
    readdirSync(join(home, folder), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && /\.tsx?$/.test(entry.name))
      .map((entry) => join(entry.parentPath, entry.name)),
  );
  return files.map((file) => readFileSync(file, 'utf8')).join('\n');
}

test('a function, type or field that such a page names is there', () => {
  const words = new Set(allText('src', 'test', 'bench', 'lab', 'tools').match(/\w+/g));
  const named = pages.flatMap((page) => {
    const text = readFileSync(join(home, 'docs', `${page}.md`), 'utf8');
    return [...text.matchAll(/`([a-z]+[A-Z]\w*|[A-Z]\w*[a-z]\w*)(?:\([^`]*\))?`/g)].map(
      ([, name = '']) => ({ page, name }),
    );
  });
  assert.ok(named.length > 20, `${named.length} names were looked for`);
  assert.deepEqual(
    named.filter(({ name }) => !words.has(name)),
    [],
  );
});
