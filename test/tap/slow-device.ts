/**
 * A block device that can be stopped: it takes requests, and answers none until it is let go on. It
 * is this process's alone: however that ends, the kernel takes device, mount and server away.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { type Fd, openFd, O } from '../../src/sys/fd.ts';
import { isErrno } from '../../src/sys/ffi.ts';
import { configureLoop, freeLoopNumber, loopPath, openLoopControl } from '../../src/sys/loop.ts';
import { needsFuse, needsLoop, needsProgram, type SkipOption } from '../peers.ts';
import { stopProcess } from '../stop-process.ts';

const SIZE_BYTES = 4 << 20;
const WAIT_MS = 20_000;

export function needsSlowDevice(): SkipOption {
  const needed = [needsLoop(), needsFuse(), needsProgram('nbdfuse', 'nbdkit')];
  return needed.find(({ skip }) => skip !== false) ?? { skip: false };
}

/** A loop device on a file of FUSE whose server can be stopped: then it answers nothing. */
export interface SlowDevice extends Disposable {
  readonly path: string;
  /** Writes that it was given and has not ended. */
  underWay(): number;
  /** What was read before is not known any more, by the file's cache either. */
  forget(): void;
  freeze(): void;
  thaw(): void;
}

/** A new one of 4 MiB. */
export function slowDevice(): SlowDevice {
  using stack = new DisposableStack();
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-slow-'));
  stack.defer(() => rmSync(dir, { recursive: true }));
  const { server, path: served } = stack.use(serveFile(dir, ['memory', String(SIZE_BYTES)]));
  const { path, fd } = bindLoop(served);
  stack.use(fd);
  const owned = stack.move();
  return {
    path,
    underWay() {
      const inflight = readFileSync(`/sys/block/${basename(path)}/inflight`, 'utf8');
      return Number(inflight.trim().split(/\s+/)[1]);
    },
    forget() {
      execFileSync('blockdev', ['--flushbufs', path]);
      const words = ['oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none'];
      execFileSync('dd', [`of=${served}`, ...words]);
    },
    freeze: () => stopProcess(server),
    thaw: () => void server.kill('SIGCONT'),
    [Symbol.dispose]: () => owned.dispose(),
  };
}

export interface ServedFile extends Disposable {
  readonly path: string;
  readonly server: ChildProcess;
}

/**
 * A file of 4 MiB that nbdkit serves by FUSE: mounted where only the server itself sees it, which is
 * killed when this thread ends.
 */
export function serveFile(dir: string, plugin: readonly string[]): ServedFile {
  const file = join(dir, 'disk.img');
  writeFileSync(file, '');
  const alone = ['--mount', 'setpriv', '--pdeathsig', 'KILL'];
  const args = [...alone, 'nbdfuse', file, '--command', 'nbdkit', '--single', ...plugin];
  const server = spawn('unshare', args, { stdio: ['ignore', 'ignore', 'inherit'] });
  using stack = new DisposableStack();
  stack.defer(() => void server.kill('SIGKILL'));
  const path = awaitFile(`/proc/${server.pid}/root${file}`);
  const owned = stack.move();
  return { path, server, [Symbol.dispose]: () => owned.dispose() };
}

/** Waits without returning to Node, as those who need a device do. @returns the path */
function awaitFile(path: string): string {
  const deadline = performance.now() + WAIT_MS;
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  while (statSync(path, { throwIfNoEntry: false })?.size !== SIZE_BYTES) {
    if (performance.now() > deadline) throw new Error(`nbdfuse does not serve ${path}`);
    Atomics.wait(sleeper, 0, 0, 5);
  }
  return path;
}

/** A device that is free again with its last opener. */
export function bindLoop(file: string): { path: string; fd: Fd } {
  using control = openLoopControl();
  using backing = openFd(file, O.RDWR);
  const setup = { readOnly: false, offsetBytes: 0, sizeLimitBytes: 0, directIo: false };
  for (;;) {
    const path = loopPath(freeLoopNumber(control.number));
    const fd = openFd(path, O.RDWR);
    try {
      configureLoop(fd.number, {
        ...setup,
        backingFd: backing.number,
        blockSizeBytes: 512,
        name: file,
      });
      return { path, fd };
    } catch (thrown) {
      fd.close();
      if (!isErrno(thrown, 'EBUSY')) throw thrown;
    }
  }
}
