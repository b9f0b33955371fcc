/** A block device that can be stopped: it takes requests, and answers none until it is let go on. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { needsLoop, needsProgram, type SkipOption } from '../peers.ts';

export function needsSlowDevice(): SkipOption {
  const needed = needsLoop();
  return needed.skip === false ? needsProgram('mkfs.ext4', 'fsfreeze', 'losetup') : needed;
}

/** A loop device on a file of a file system that can be frozen: then it answers nothing. */
export interface SlowDevice extends Disposable {
  readonly path: string;
  /** Writes that it was given and has not ended. */
  underWay(): number;
  freeze(): void;
  thaw(): void;
}

/** A new one of 4 MiB. */
export function slowDevice(): SlowDevice {
  using stack = new DisposableStack();
  const run = (program: string, ...args: string[]): string =>
    execFileSync(program, args, { encoding: 'utf8' }).trim();
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-slow-'));
  stack.defer(() => rmSync(dir, { recursive: true }));
  const [image, mounted] = [join(dir, 'fs.img'), join(dir, 'mounted')];
  mkdirSync(mounted);
  writeFileSync(image, '');
  truncateSync(image, 32 << 20);
  run('mkfs.ext4', '-q', image);
  run('mount', '-o', 'loop', image, mounted);
  stack.defer(() => void run('umount', mounted));
  const file = join(mounted, 'disk.img');
  writeFileSync(file, new Uint8Array(4 << 20));
  const path = run('losetup', '--find', '--show', file);
  stack.defer(() => void run('losetup', '--detach', path));
  let frozen = false;
  const thaw = (): void => {
    if (frozen) run('fsfreeze', '--unfreeze', mounted);
    frozen = false;
  };
  stack.defer(thaw);
  const owned = stack.move();
  return {
    path,
    underWay() {
      const inflight = readFileSync(`/sys/block/${basename(path)}/inflight`, 'utf8');
      return Number(inflight.trim().split(/\s+/)[1]);
    },
    freeze() {
      run('fsfreeze', '--freeze', mounted);
      frozen = true;
    },
    thaw,
    [Symbol.dispose]: () => owned.dispose(),
  };
}
