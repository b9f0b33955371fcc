/** examples/: configurations that stock xl reads, with disks that are what they say. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { exampleOf, findExamples, readExample } from '../../lab/examples.ts';
import { parseXlConfig } from '../../src/disk/xl-config.ts';
import { needsProgram } from '../peers.ts';

const bin = join(import.meta.dirname, '..', '..', 'bin');
const dir = mkdtempSync(join(tmpdir(), 'vbdkit-examples-'));
after(() => rmSync(dir, { recursive: true }));

/** Runs a line of bash as at the head of an example; what is a host's own is not touched. */
function run(line: string, folder: string): string {
  const stub = 'vbd() { [ "$1" = setup ] || command vbd "$@"; }';
  const options = {
    encoding: 'utf8',
    stdio: 'pipe',
    env: { ...process.env, PATH: `${bin}:${process.env['PATH']}` },
  } as const;
  return execFileSync('bash', ['-ec', `${stub}; ${line.replaceAll('/srv/', folder)}`], options);
}

/** What the lines before have made there is an image of that format. */
function assertImage(path: string, format: string, folder: string): void {
  const said = JSON.parse(run(`vbd info --json -f ${format} ${path}`, folder)) as {
    'virtual-size': number;
  };
  // VHD rounds up.
  assert.ok(said['virtual-size'] >= 2 ** 30);
}

for (const { file, text, before } of findExamples()) {
  test(`${file} is one that stock xl reads, and its disks are what they say`, () => {
    const { name, disks } = parseXlConfig(text, 'xl');
    assert.ok(name !== undefined && disks.length > 0);
    assert.match(
      readExample('README.md'),
      new RegExp(`\\(${file.replace('.', String.raw`\.`)}\\)`),
    );
    const folder = `${join(dir, file)}/`;
    mkdirSync(folder);
    for (const line of before) run(line, folder);
    for (const { spec } of disks) {
      if (spec.backend !== undefined) continue;
      const [, format, path] = /^(?:(\w+):)?(\/srv\/.*)$/.exec(spec.target ?? '') ?? [];
      assert.ok(path, spec.target);
      assertImage(path, format ?? spec.format, folder);
    }
  });
}

test('libvirt.xml is XML, and its disks are what they say', needsProgram('python3'), () => {
  const program = `
import sys, xml.etree.ElementTree as tree
for disk in tree.fromstring(sys.stdin.read()).iter('disk'):
    print(disk.find('driver').get('type'), disk.find('source').get('file'), disk.find('target').get('dev'))`;
  const { text, before } = exampleOf('libvirt.xml');
  const said = execFileSync('python3', ['-c', program], { input: text, encoding: 'utf8' });
  assert.equal(said, 'raw /srv/web.img xvda\nqcow2 /srv/web.qcow2 xvdb\n');
  const folder = `${join(dir, 'libvirt')}/`;
  mkdirSync(folder);
  for (const line of before) run(line, folder);
  assertImage('/srv/web.img', 'raw', folder);
  assertImage('/srv/web.qcow2', 'qcow2', folder);
});
