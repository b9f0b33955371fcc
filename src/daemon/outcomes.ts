/**
 * Where the toolstack's helper (libexec/block-vbd) finds each disk's outcome: in vbdd's folder, a
 * file of one line for each disk, and the FIFO `alive`, which tells by its end that vbdd died.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskRecord, Outcome } from '../backend/disk-record.ts';
import { Failure } from '../base/failure.ts';
import { oneLine } from '../base/log.ts';
import { O, openFd, type Fd } from '../sys/fd.ts';
import { lockRange } from '../sys/file.ts';
import { isErrno, mkfifo } from '../sys/ffi.ts';
import type { DiskTable } from './disk-table.ts';

export interface RunFolder extends Disposable {
  /** Tells the outcomes of these disks, those known already and those to come. */
  follow(disks: DiskTable): Disposable;
}

/**
 * Takes the folder for this vbdd alone, without what an earlier one left in it.
 * @throws Failure exists when another vbdd has it
 */
export function openRunFolder(folder: string): RunFolder {
  using stack = new DisposableStack();
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  const lock = stack.use(openFd(join(folder, 'lock'), O.RDWR | O.CREAT, 0o600));
  if (!lockRange(lock.number, 'exclusive', 0, 1)) {
    throw new Failure('exists', `another vbdd works in ${folder} — stop it, or use --socket`);
  }
  const outcomes = join(folder, 'outcomes');
  rmSync(outcomes, { recursive: true, force: true });
  mkdirSync(outcomes, { mode: 0o700 });
  stack.use(openAlive(join(folder, 'alive')));
  const owned = stack.move();
  return {
    follow: (disks) => followOutcomes(outcomes, disks),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

/** It stays there for ever: a helper may open it at any moment. */
function openAlive(path: string): Fd {
  try {
    mkfifo(path, 0o600);
  } catch (thrown) {
    if (!isErrno(thrown, 'EEXIST')) throw thrown;
  }
  return openFd(path, O.RDWR | O.NONBLOCK);
}

function followOutcomes(folder: string, disks: DiskTable): Disposable {
  const told = new Map<string, Outcome>();
  const tell = (record: DiskRecord): void => {
    const { path, outcome } = record;
    if (told.get(path) === outcome) return;
    const file = join(folder, fileNameOf(record));
    if (outcome === undefined) {
      told.delete(path);
      rmSync(file, { force: true });
    } else {
      told.set(path, outcome);
      writeFileSync(file, `${lineOf(outcome)}\n`, { mode: 0o600 });
    }
  };
  for (const record of disks.records.values()) tell(record);
  return disks.onChange(tell);
}

function fileNameOf({ key }: DiskRecord): string {
  return `${key.kind}-${key.domid}-${key.devid}`;
}

function lineOf({ refusal }: Outcome): string {
  return refusal === undefined ? 'connected' : `refused ${oneLine(refusal.message)}`;
}
