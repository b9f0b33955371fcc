/**
 * Where the toolstack's helper (libexec/block-vbd) finds each disk's outcome: in vbdd's folder, a
 * file of one line for each disk, and the FIFO `alive`, which tells by its end that vbdd died.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DiskRecord, Outcome } from '../backend/disk-record.ts';
import { Failure } from '../base/failure.ts';
import { type Log, oneLine } from '../base/log.ts';
import { diskName } from '../disk/backend-nodes.ts';
import { O, openFd, type Fd } from '../sys/fd.ts';
import { lockRange } from '../sys/file.ts';
import { isErrno, mkfifo } from '../sys/ffi.ts';
import { makeRunFolder } from '../tap/control-server.ts';
import type { DiskTable } from './disk-table.ts';

export interface RunFolder extends Disposable {
  /** Tells the outcomes of these disks, those known already and those to come. */
  follow(disks: DiskTable, log: Log): Disposable;
}

/**
 * Takes the folder for this vbdd alone, without what an earlier one left in it.
 * @throws Failure exists when another vbdd has it; denied
 */
export function openRunFolder(folder: string): RunFolder {
  using stack = new DisposableStack();
  makeRunFolder(folder);
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
    follow: (disks, log) => followOutcomes(outcomes, disks, log),
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

/** What cannot be told now, for want of a descriptor or of space, is told after a while. */
const TELL_AGAIN_MS = 1000;

function followOutcomes(folder: string, disks: DiskTable, log: Log): Disposable {
  const told = new Map<string, Outcome>();
  let timer: NodeJS.Timeout | undefined;
  const tell = (record: DiskRecord): void => {
    const { path, outcome } = record;
    if (told.get(path) === outcome) return;
    const file = join(folder, diskName(record.key));
    if (outcome === undefined) {
      told.delete(path);
      rmSync(file, { force: true });
    } else {
      writeFileSync(file, `${lineOf(outcome)}\n`, { mode: 0o600 });
      told.set(path, outcome);
    }
  };
  const tryToTell = (record: DiskRecord): void => {
    try {
      tell(record);
    } catch (thrown) {
      if (!(thrown instanceof Error && 'code' in thrown)) throw thrown;
      log('warning', `an outcome cannot be told and is tried again: ${thrown.message}`);
      timer ??= setTimeout(tellAll, TELL_AGAIN_MS).unref();
    }
  };
  const tellAll = (): void => {
    timer = undefined;
    for (const record of disks.records.values()) tryToTell(record);
  };
  tellAll();
  const listener = disks.onChange(tryToTell);
  return {
    [Symbol.dispose]() {
      listener[Symbol.dispose]();
      clearTimeout(timer);
    },
  };
}

function lineOf({ refusal }: Outcome): string {
  return refusal === undefined ? 'connected' : `refused ${oneLine(refusal.message)}`;
}
