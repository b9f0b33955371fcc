/** A file that fails while it is told to: one of FUSE, with errors of nbdkit's. It cannot grow. */
import { copyFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serveFile } from './slow-device.ts';

const SIZE_BYTES = 4 << 20;

export interface FaultyFile extends Disposable {
  readonly path: string;
  /** From now on such calls end with EIO. */
  fail(what: 'read' | 'write'): void;
  /** From now on all of them are done. */
  mend(): void;
}

/** A file of 4 MiB that begins with what the image at `source` has. */
export function faultyFile(source: string): FaultyFile {
  using stack = new DisposableStack();
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-faulty-'));
  stack.defer(() => rmSync(dir, { recursive: true }));
  const bytes = join(dir, 'bytes');
  copyFileSync(source, bytes);
  truncateSync(bytes, SIZE_BYTES);
  const switchOf = { read: join(dir, 'fail-reads'), write: join(dir, 'fail-writes') };
  const errors = Object.entries({ pread: switchOf.read, pwrite: switchOf.write }).flatMap(
    ([call, path]) => [`error-${call}-rate=100%`, `error-${call}-file=${path}`],
  );
  const { path } = stack.use(serveFile(dir, ['--filter=error', 'file', bytes, ...errors]));
  const owned = stack.move();
  return {
    path,
    fail: (what) => writeFileSync(switchOf[what], ''),
    mend() {
      for (const file of Object.values(switchOf)) rmSync(file, { force: true });
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}
