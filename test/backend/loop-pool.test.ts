/** The loop pool on the kernel's real devices, beside a foreign losetup. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  linkSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { loopKernel } from '../../src/backend/loop-kernel.ts';
import {
  createLoopPool,
  type LoopClaim,
  type LoopKernel,
  type LoopPool,
} from '../../src/backend/loop-pool.ts';
import { Failure } from '../../src/base/failure.ts';
import { type Fd, O, openFd } from '../../src/sys/fd.ts';
import { ErrnoError, ioctlNumber, isErrno } from '../../src/sys/ffi.ts';
import { fileFacts } from '../../src/sys/file.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';

const options = needsLoop();
const LOOP_CHANGE_FD = 0x4c06;

let dir: string;
let pool: LoopPool;
let faults: string[];
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'vbdkit-pool-'));
  for (const name of ['a', 'b']) writeFileSync(join(dir, name), Buffer.alloc(1 << 20, name));
  linkSync(join(dir, 'a'), join(dir, 'hard'));
  symlinkSync('a', join(dir, 'soft'));
});
after(() => {
  // A test that fails half-way leaves what another program has bound for it.
  for (const number of boundLoops(dir).keys()) {
    execFileSync('losetup', ['-d', `/dev/loop${number}`]);
  }
  rmSync(dir, { recursive: true });
});
beforeEach(() => {
  faults = [];
  if (options.skip === false) pool = makePool(loopKernel());
});
afterEach(() => {
  if (options.skip === false) pool[Symbol.dispose]();
});

function makePool(kernel: LoopKernel): LoopPool {
  return createLoopPool(kernel, { spare: 2, onFault: (sentence) => faults.push(sentence) });
}

function acquire(path: string, readOnly = false, more = {}, from = pool): LoopClaim {
  using backing = openFd(path, readOnly ? O.RDONLY : O.RDWR);
  const { device, inode } = fileFacts(backing.number);
  const name = path;
  return from.acquire({ backingFd: backing.number, device, inode, readOnly, name, ...more });
}

/** What sysfs says: the file bound to that device, or undefined. */
function backingFile(number: number): string | undefined {
  try {
    return readFileSync(`/sys/block/loop${number}/loop/backing_file`, 'utf8').trim();
  } catch {
    return undefined;
  }
}

test(
  'one file has one device, by whatever path; another mode or offset has its own',
  options,
  () => {
    using first = acquire(join(dir, 'a'));
    using hard = acquire(join(dir, 'hard'));
    using soft = acquire(join(dir, 'soft'));
    assert.deepEqual([hard.number, soft.number], [first.number, first.number]);
    using reader = acquire(join(dir, 'a'), true);
    using shifted = acquire(join(dir, 'a'), false, { offsetBytes: 4096 });
    using other = acquire(join(dir, 'b'));
    const numbers = [first, reader, shifted, other].map((claim) => claim.number);
    assert.equal(new Set(numbers).size, 4);
    assert.equal(pool.bound, 4);
    assert.equal(reader.readOnly, true);
  },
);

test('the device is freed with its last user, and not before', options, () => {
  const first = acquire(join(dir, 'a'));
  const second = acquire(join(dir, 'a'));
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assert.equal(backingFile(second.number), join(dir, 'a'));
  second[Symbol.dispose]();
  assert.equal(backingFile(second.number), undefined);
  assert.equal(pool.bound, 0);
});

test(
  'a device that another program still has open outlives our hold, and clears with its last close',
  options,
  () => {
    const claim = acquire(join(dir, 'a'));
    const backend = openFd(claim.devicePath, O.RDWR);
    claim[Symbol.dispose]();
    assert.equal(backingFile(claim.number), join(dir, 'a'));
    using next = acquire(join(dir, 'b'));
    assert.notEqual(next.number, claim.number);
    backend.close();
    assert.equal(backingFile(claim.number), undefined);
  },
);

test('a foreign losetup keeps what it won, and we take another device', options, () => {
  const foreign = Number(
    execFileSync('losetup', ['-f', '--show', join(dir, 'b')], { encoding: 'utf8' })
      .trim()
      .replace('/dev/loop', ''),
  );
  try {
    using own = makePool({ ...loopKernel(), unbound: () => [foreign] });
    using claim = acquire(join(dir, 'a'), false, {}, own);
    assert.notEqual(claim.number, foreign);
    assert.equal(backingFile(foreign), join(dir, 'b'));
  } finally {
    execFileSync('losetup', ['-d', `/dev/loop${foreign}`]);
  }
});

test(
  'a device that was bound to another file under our hands is never handed out again',
  options,
  () => {
    const first = acquire(join(dir, 'a'), true);
    using other = openFd(join(dir, 'b'), O.RDONLY);
    ioctlNumber(first.fd, LOOP_CHANGE_FD, other.number);
    using second = acquire(join(dir, 'a'), true);
    assert.notEqual(second.number, first.number);
    assert.match(faults.join('\n'), /bound to something else/);
    const spare = pool.spare;
    first[Symbol.dispose]();
    assert.equal(pool.spare, spare);
  },
);

test(
  'a device whose serial number changed is not the one we bound, even on the same file',
  options,
  () => {
    const first = acquire(join(dir, 'a'), true);
    using other = openFd(join(dir, 'b'), O.RDONLY);
    using same = openFd(join(dir, 'a'), O.RDONLY);
    ioctlNumber(first.fd, LOOP_CHANGE_FD, other.number);
    ioctlNumber(first.fd, LOOP_CHANGE_FD, same.number);
    using second = acquire(join(dir, 'a'), true);
    assert.notEqual(second.number, first.number);
    first[Symbol.dispose]();
  },
);

test('what an earlier daemon bound is adopted, once it is seen to be that', options, () => {
  const earlier = acquire(join(dir, 'a'));
  const { number, diskSequence } = earlier;
  using backend = openFd(earlier.devicePath, O.RDWR);
  pool[Symbol.dispose]();
  assert.equal(backingFile(number), join(dir, 'a'));

  pool = makePool(loopKernel());
  assert.throws(() => pool.adopt(number, { diskSequence: diskSequence + 1, readOnly: false }), {
    kind: 'gone',
  });
  {
    using adopted = pool.adopt(number, { diskSequence, readOnly: false });
    using again = acquire(join(dir, 'a'));
    assert.equal(again.number, number);
    assert.equal(adopted.identity, again.identity);
  }
  assert.equal(backingFile(number), join(dir, 'a'), 'the backend still has it open');
  backend.close();
  assert.equal(backingFile(number), undefined);
  assert.throws(() => pool.adopt(number, { readOnly: false }), { kind: 'gone' });
});

test('an adopted device of the official script learns to clear itself', options, () => {
  const path = execFileSync('losetup', ['-f', '--show', join(dir, 'b')], {
    encoding: 'utf8',
  }).trim();
  const number = Number(path.replace('/dev/loop', ''));
  const claim = pool.adopt(number, { readOnly: false });
  claim[Symbol.dispose]();
  assert.equal(backingFile(number), undefined);
});

test('two devices that a script made on one file are both adopted', options, () => {
  const numbers = [1, 2].map(() => {
    const path = execFileSync('losetup', ['-f', '--show', join(dir, 'b')], { encoding: 'utf8' });
    return Number(path.trim().replace('/dev/loop', ''));
  });
  const claims = numbers.map((number) => pool.adopt(number, { readOnly: false }));
  assert.deepEqual(
    claims.map((claim) => claim.number),
    numbers,
  );
  for (const claim of claims) claim[Symbol.dispose]();
  assert.deepEqual(numbers.map(backingFile), [undefined, undefined]);
});

test('a grown file grows its device', options, () => {
  const path = join(dir, 'grown');
  writeFileSync(path, Buffer.alloc(1 << 20));
  using claim = acquire(path);
  writeFileSync(path, Buffer.alloc(3 << 20));
  claim.refreshCapacity();
  const sectors = readFileSync(`/sys/block/loop${claim.number}/size`, 'utf8');
  assert.equal(Number(sectors) * 512, 3 << 20);
});

const refusals = [
  { errno: 'EMFILE', number: 24, call: 'openExclusive', kind: 'exhausted' },
  { errno: 'ENOMEM', number: 12, call: 'configure', kind: 'exhausted' },
  { errno: 'EIO', number: 5, call: 'configure', kind: 'io' },
  { errno: 'ENOSPC', number: 28, call: 'add', kind: 'exhausted' },
] as const;
for (const { errno, number, call, kind } of refusals) {
  test(`${errno} from the kernel is told, and leaves nothing bound`, options, () => {
    const opened: Fd[] = [];
    const kernel = loopKernel();
    const fail = (): never => {
      throw new ErrnoError(call, number);
    };
    using own = makePool({
      ...kernel,
      unbound: () => (call === 'add' ? [] : kernel.unbound()),
      openExclusive(device, readOnly) {
        const fd = kernel.openExclusive(device, readOnly);
        opened.push(fd);
        return fd;
      },
      [call]: fail,
    });
    assert.throws(
      () => acquire(join(dir, 'a'), false, {}, own),
      (thrown) => thrown instanceof Failure && thrown.kind === kind && isErrno(thrown.cause, errno),
    );
    assert.deepEqual(
      opened.filter((fd) => !fd.closed),
      [],
    );
    assert.equal(own.bound, 0);
  });
}

test('devices are made ahead of need', options, () => {
  const kernel = loopKernel();
  let made = 0;
  using own = createLoopPool(
    { ...kernel, unbound: () => [], add: () => ++made + 1_000_000 },
    { spare: 3 },
  );
  own.replenish();
  assert.deepEqual([made, own.spare], [3, 3]);
  own.replenish();
  assert.equal(made, 3);
});

const MANY = 4000;
/** No loop device is ever removed: so many would stay with the machine, and slow its other tests. */
const manyOptions =
  process.env['VBDKIT_MANY_LOOPS'] === '1'
    ? options
    : { skip: `leaves ${MANY} loop devices with the machine — VBDKIT_MANY_LOOPS=1 runs it` };

test(`${MANY} files have a device each at the same time`, manyOptions, () => {
  using claims = new DisposableStack();
  const numbers = new Set<number>();
  for (let index = 0; index < MANY; index++) {
    const path = join(dir, `many-${index}`);
    writeFileSync(path, '');
    truncateSync(path, 4096);
    const { number } = claims.use(acquire(path));
    numbers.add(number);
  }
  assert.equal(numbers.size, MANY);
  const bound = execFileSync('losetup', ['--list', '--noheadings', '--output', 'BACK-FILE']);
  assert.equal(bound.toString().split(`${dir}/many-`).length - 1, MANY);
  claims.dispose();
  assert.deepEqual([...numbers].filter(backingFile), []);
});
