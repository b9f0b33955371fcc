/** The engine seen by strace: how many calls requests take, and calls that are interrupted or refused. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { needs, needsProgram } from '../peers.ts';
import { hasUring } from './engine-bed.ts';

const root = join(import.meta.dirname, '../..');
const uring = needs(hasUring, 'no io_uring here');
const strace = needsProgram('strace');
const options = { skip: strace.skip || uring.skip };

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), 'vbdkit-counts-'));
});
after(() => rmSync(folder, { recursive: true }));

const diskPath = (): string => join(folder, 'disk');

/**
 * Runs `body` in a process of its own under strace; it has an engine, an image of 1 MiB of `x`,
 * `direct` or not, memory, and `finish`.
 * @returns what it printed, and how often each call was made between the two marks
 */
function traced(
  args: readonly string[],
  body: string,
  setup: { direct?: boolean; uring?: boolean } = {},
): { says: string; calls: Map<string, number> } {
  const path = diskPath();
  writeFileSync(path, Buffer.alloc(1 << 20, 'x'));
  const trace = join(folder, 'trace');
  const program = `
    import { createBed } from '${root}/test/image/engine-bed.ts';
    import { openImage } from '${root}/src/image/open.ts';
    import { existsSync } from 'node:fs';
    const bed = createBed('${setup.uring === false ? 'by plain calls' : 'by io_uring'}');
    const { engine, memory } = bed;
    const image = openImage('${path}', {
      format: 'raw', writable: true, files: bed.files, direct: ${setup.direct === true},
    });
    existsSync('/mark');
    ${body}
    existsSync('/mark');
    bed[Symbol.dispose]();`;
  const node = [process.execPath, '--input-type=module', '-e', program];
  // Node's own io_uring is left out, and with `-P` its own calls on other files.
  const says = execFileSync('strace', ['-f', '-o', trace, ...args, ...node], {
    encoding: 'utf8',
    env: { ...process.env, UV_USE_IO_URING: '0' },
  });
  const calls = new Map<string, number>();
  const lines = readFileSync(trace, 'utf8').split('\n');
  const marks = lines.flatMap((line, index) => (line.includes('"/mark"') ? [index] : []));
  for (const line of lines.slice(marks[0], marks.at(-1))) {
    const name = /^\d+\s+(\w+)\(/.exec(line)?.[1] ?? '';
    calls.set(name, (calls.get(name) ?? 0) + 1);
  }
  return { says, calls };
}

const trace = [
  '-e',
  'trace=preadv2,pread64,pwrite64,fdatasync,io_uring_enter,poll,access,statx,stat',
];

test('a cached read and an overwrite take one call each', options, () => {
  const { calls } = traced(
    trace,
    `for (let i = 0; i < 500; i++) {
      engine.read(image, i * 512, 4096, memory, 0, i);
      engine.write(image, i * 512, 4096, memory, 0, false, i);
    }`,
  );
  assert.equal(calls.get('preadv2'), 500);
  assert.equal(calls.get('pwrite64'), 500);
  assert.equal(calls.get('pread64') ?? 0, 0);
  assert.equal(calls.get('io_uring_enter') ?? 0, 0);
});

test('a batch of direct requests takes one call to begin', options, () => {
  const { calls } = traced(
    trace,
    `for (let i = 0; i < 64; i++) engine.read(image, i * 4096, 4096, memory, i * 4096, i);
    for (let i = 64; i < 128; i++) engine.write(image, i * 4096, 4096, memory, i * 4096, false, i);
    engine.submit();
    existsSync('/mark');`,
    { direct: true },
  );
  assert.equal(calls.get('io_uring_enter'), 1);
  assert.equal(calls.get('pread64') ?? 0, 0);
});

const readAndWrite = `
  const at = (n) => n * 8192;
  for (let i = 0; i < 40; i++) {
    memory.view.fill(i, at(i), at(i) + 4096);
    const answer = bed.ended(engine.write(image, at(i), 4096, memory, at(i), false, i), i);
    if (answer !== 0) console.log('write', i, answer);
  }
  memory.view.fill(255);
  for (let i = 0; i < 40; i++) {
    const answer = bed.ended(engine.read(image, at(i), 4096, memory, at(i), i), i);
    if (answer !== 0) console.log('read', i, answer);
    else if (memory.view[at(i)] !== i || memory.view[at(i) + 4095] !== i) console.log('bad', i);
  }`;

for (const setup of [{}, { uring: false }, { uring: false, direct: true }]) {
  const by = `${setup.uring === false ? 'plain calls' : 'io_uring'}${setup.direct === true ? ', direct' : ''}`;
  test(`an interrupted call is made again (${by})`, options, () => {
    const inject = 'inject=preadv2,pread64,pwrite64:error=EINTR:when=3+4';
    assert.equal(traced(['-P', diskPath(), '-e', inject], readAndWrite, setup).says, '');
  });
}

test('the ring is entered again when that was interrupted', options, () => {
  const args = ['-e', 'inject=io_uring_enter:error=EINTR:when=1+2'];
  assert.equal(traced(args, readAndWrite, { direct: true }).says, '');
});

test('an error of the disk is that request’s alone', options, () => {
  const args = [
    '-P',
    diskPath(),
    '-e',
    'inject=preadv2:error=EIO:when=3',
    '-e',
    'inject=pwrite64:error=ENOSPC:when=5',
  ];
  assert.equal(traced(args, readAndWrite).says, 'write 4 28\nread 2 5\nbad 4\n');
});

test('no flush after a failed one says that all is well', options, () => {
  const args = ['-e', 'inject=fdatasync:error=EIO:when=1'];
  const body = `console.log(engine.flush(image, 1), engine.flush(image, 2));`;
  assert.equal(traced(args, body, { uring: false }).says, '5 5\n');
});

test('where reads cannot be asked not to wait, they are read through the ring', options, () => {
  const args = ['-e', 'inject=preadv2:error=EOPNOTSUPP'];
  const { says, calls } = traced(args, readAndWrite);
  assert.equal(says, '');
  assert.equal(calls.get('preadv2'), 1);
});
