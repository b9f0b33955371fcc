/** Loop devices that outlive the process which bound them: kept by name, believed only when they are what it says. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { loopKernel } from '../../src/backend/loop-kernel.ts';
import { createLoopPool, type LoopClaim, type LoopPool } from '../../src/backend/loop-pool.ts';
import { stashedNumber, stashName } from '../../src/backend/loop-stash.ts';
import { duplicateFd, type Fd, O, openFd } from '../../src/sys/fd.ts';
import { fileFacts } from '../../src/sys/file.ts';
import type { HandedFd } from '../../src/sys/service.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';

const options = needsLoop();
let dir: string;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-stash-'));
  for (const name of ['a', 'b']) writeFileSync(join(dir, name), Buffer.alloc(1 << 16, name));
});
after(() => rmSync(dir, { recursive: true }));

/** Keeps duplicates, as a service manager does. */
function keeper(): {
  kept: Map<string, Fd>;
  keep(n: string, fd: number): void;
  drop(n: string): void;
} {
  const kept = new Map<string, Fd>();
  return {
    kept,
    keep: (name, fd) => void kept.set(name, duplicateFd(fd)),
    drop(name) {
      kept.get(name)?.close();
      kept.delete(name);
    },
  };
}

function acquire(pool: LoopPool, name: string, readOnly = false): LoopClaim {
  using backing = openFd(join(dir, name), readOnly ? O.RDONLY : O.RDWR);
  const { device, inode } = fileFacts(backing.number);
  return pool.acquire({ backingFd: backing.number, device, inode, readOnly, name });
}

function successor(handed: HandedFd[], stash = keeper()): { pool: LoopPool; faults: string[] } {
  const faults: string[] = [];
  const onFault = (sentence: string): void => void faults.push(sentence);
  return { pool: createLoopPool(loopKernel(), { spare: 0, onFault, handed, stash }), faults };
}

const handedOf = (kept: Map<string, Fd>): HandedFd[] =>
  [...kept].map(([name, fd]) => ({ name, fd }));

test('a name says which binding it is, in what a service manager allows', () => {
  const status = { device: { major: 253, minor: 1 }, inode: 77n, offsetBytes: 512, readOnly: true };
  const name = stashName({ number: 12, diskSequence: 345, status });
  assert.equal(name, 'loop1-12-345-253.1-77-512-r');
  assert.equal(stashedNumber(name), 12);
  assert.equal(stashedNumber('loop2-12-345-253.1-77-512-r'), undefined);
});

test('what one process had bound the next one has, under the same sequence', options, () => {
  const stash = keeper();
  const first = createLoopPool(loopKernel(), { spare: 0, stash });
  const { number, diskSequence } = acquire(first, 'a');
  acquire(first, 'b', true);
  first[Symbol.dispose]();
  assert.equal(boundLoops(dir).size, 2, 'nobody but the keeper has them open');

  const { pool, faults } = successor(handedOf(stash.kept), stash);
  using adopted = pool.adopt(number, { diskSequence, readOnly: false });
  assert.equal(adopted.diskSequence, diskSequence);
  using again = acquire(pool, 'a');
  assert.equal(again.number, number);
  pool.releaseUnclaimed();
  assert.deepEqual([...boundLoops(dir).keys()], [number], 'what nobody asked for is closed');
  adopted[Symbol.dispose]();
  again[Symbol.dispose]();
  assert.equal(boundLoops(dir).size, 0);
  assert.equal(stash.kept.size, 0);
  assert.deepEqual(faults, []);
  pool[Symbol.dispose]();
});

test('what is not what its name says is left alone, and told', options, () => {
  const stash = keeper();
  const first = createLoopPool(loopKernel(), { spare: 0, stash });
  acquire(first, 'a');
  first[Symbol.dispose]();
  const [[name, fd] = assert.fail('nothing was kept')] = [...stash.kept];
  const older = name.replace(/^(loop1-\d+-)\d+/, '$11');
  const { pool, faults } = successor([
    { name: older, fd },
    { name: 'stdin', fd: openFd('/dev/null', O.RDONLY) },
  ]);
  assert.equal(faults.length, 2);
  assert.match(faults[0] ?? '', new RegExp(`${older}.* left alone`));
  pool.releaseUnclaimed();
  assert.equal(boundLoops(dir).size, 1);
  pool[Symbol.dispose]();
  fd.close();
  assert.equal(boundLoops(dir).size, 0);
});
