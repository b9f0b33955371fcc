/** What the engine's tests share: its two manners, memory, and how pending requests are ended. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Engine, FixedMemory } from '../../src/image/engine-contract.ts';
import { PENDING } from '../../src/image/engine-contract.ts';
import { createEngine } from '../../src/image/engine.ts';
import { createFileTable, type FileTable } from '../../src/image/file-table.ts';
import { mapPrivate } from '../../src/sys/memory.ts';
import { createUring } from '../../src/sys/uring.ts';
import { POLL, pollFds } from '../../src/sys/wait.ts';

const probe = createUring(1);
/** Whether the kernel lets tests have io_uring. */
export const hasUring: boolean = probe !== undefined;
probe?.[Symbol.dispose]();

export const manners = ['by io_uring', 'by plain calls'] as const;
export type Manner = (typeof manners)[number];

export interface Bed extends Disposable {
  readonly folder: string;
  readonly files: FileTable;
  readonly engine: Engine;
  readonly memory: FixedMemory;
  /** The errno of a request, once it has ended. */
  ended(result: number, tag: number): number;
  /** Waits for all that is pending; `onEnd` is told of each. */
  finish(onEnd?: (tag: number, errno: number) => void): void;
}

export function createBed(manner: Manner, memoryBytes = 1 << 20): Bed {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-engine-'));
  const files = createFileTable();
  const engine = createEngine(files, { uring: manner === 'by io_uring' });
  const mapping = mapPrivate(memoryBytes);
  const results = new Map<number, number>();
  const finish = (onEnd?: (tag: number, errno: number) => void): void => {
    engine.submit();
    while (engine.pending > 0) {
      const [ready] = pollFds([{ fd: engine.fd ?? -1, events: POLL.IN }], 60_000);
      if (ready === 0) throw new Error(`${engine.pending} requests do not end`);
      engine.reap((tag, errno) => {
        results.set(tag, errno);
        onEnd?.(tag, errno);
      });
    }
  };
  return {
    folder,
    files,
    engine,
    memory: { view: new Uint8Array(mapping.memory), address: mapping.address },
    ended(result, tag) {
      if (result !== PENDING) return result;
      finish();
      return results.get(tag) ?? PENDING;
    },
    finish,
    [Symbol.dispose]() {
      finish();
      engine[Symbol.dispose]();
      files[Symbol.dispose]();
      mapping[Symbol.dispose]();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Makes the kernel forget what it has cached of a file. */
export function evict(path: string): void {
  execFileSync('dd', [
    `of=${path}`,
    'oflag=nocache',
    'conv=notrunc,fdatasync',
    'count=0',
    'status=none',
  ]);
}
