/**
 * The table of disks and the rule that one disk is reconciled by one loop at a time, while
 * different disks run side by side and share their round trips.
 */
import { within } from '../base/deadline.ts';
import { type DiskRecord, newRecord } from '../backend/disk-record.ts';
import { backendPath, type DiskKey } from '../disk/backend-nodes.ts';

export interface DiskTable {
  readonly records: ReadonlyMap<string, DiskRecord>;
  /**
   * Calls a disk into question because of an event at that place in the store's stream, or of
   * something that has none; resolves when the disk was reconciled at least once since.
   */
  call(key: DiskKey, at?: number): Promise<DiskRecord>;
  /** The disk's record, a new one where it has none; call it, too. */
  meet(key: DiskKey): DiskRecord;
  /** Calls a disk that nobody looks at now; nothing has happened, it may only be time to try again. */
  callIdle(key: DiskKey): void;
  callAll(which: (record: DiskRecord) => boolean): void;
  /** Resolves when nothing is being reconciled. */
  settled(): Promise<void>;
  /** Resolves with the record once `done` says so. @throws Failure timeout */
  until(
    key: DiskKey,
    timeoutMs: number,
    done: (record: DiskRecord) => boolean,
  ): Promise<DiskRecord>;
  /** Called after each reconcile of a disk. */
  onChange(listener: (record: DiskRecord) => void): Disposable;
}

export interface DiskTableOptions {
  /** Reconciles a disk; tells the place in the stream that its reading covers. Must not throw. */
  readonly reconcile: (record: DiskRecord, onRead: (at: number) => void) => Promise<void>;
  /** Told of a disk that was not in the table before. */
  readonly onNew: (record: DiskRecord) => void;
  /** Told of a disk that is gone from the store and from our hands. */
  readonly onForget: (record: DiskRecord) => void;
}

interface Slot {
  readonly record: DiskRecord;
  /** The newest event about it, as a place in the store's stream; 0 when all are answered. */
  calledAt: number;
  /** Something without a place has called since the last reading. */
  calledAnyway: boolean;
  running: Promise<void> | undefined;
}

function newSlot(key: DiskKey): Slot {
  return { record: newRecord(key), calledAt: 0, calledAnyway: false, running: undefined };
}

/** A table without disks. */
export function createDiskTable(options: DiskTableOptions): DiskTable {
  const slots = new Map<string, Slot>();
  const records = new Map<string, DiskRecord>();
  const listeners = new Set<(record: DiskRecord) => void>();

  function slotOf(key: DiskKey): Slot {
    const path = backendPath(key);
    const there = slots.get(path);
    if (there !== undefined) return there;
    const slot = newSlot(key);
    slots.set(path, slot);
    records.set(path, slot.record);
    options.onNew(slot.record);
    return slot;
  }

  async function answer(slot: Slot): Promise<void> {
    const { record } = slot;
    while (slot.calledAnyway || slot.calledAt > 0) {
      const called = slot.calledAt;
      slot.calledAnyway = false;
      await options.reconcile(record, (at) => {
        slot.calledAnyway = false;
        // Events from before the reading are in it; so is the one that led to it.
        if (slot.calledAt <= Math.max(at, called)) slot.calledAt = 0;
      });
      if (slot.calledAt === called) slot.calledAt = 0;
    }
    slot.running = undefined;
    if (record.nodes === undefined && record.held === undefined && record.ring === undefined) {
      slots.delete(record.path);
      records.delete(record.path);
      options.onForget(record);
    }
    for (const listener of listeners) listener(record);
  }

  function callSlot(slot: Slot, at: number | undefined): Promise<void> {
    if (at === undefined) slot.calledAnyway = true;
    else slot.calledAt = Math.max(slot.calledAt, at);
    slot.running ??= answer(slot);
    return slot.running;
  }

  return {
    records,
    meet: (key) => slotOf(key).record,
    async call(key, at) {
      const slot = slotOf(key);
      await callSlot(slot, at);
      return slot.record;
    },
    callIdle(key) {
      const slot = slots.get(backendPath(key));
      if (slot !== undefined && slot.running === undefined) void callSlot(slot, undefined);
    },
    callAll(which) {
      for (const slot of slots.values()) if (which(slot.record)) void callSlot(slot, undefined);
    },
    async settled() {
      for (;;) {
        const running = [...slots.values()].flatMap((slot) => slot.running ?? []);
        if (running.length === 0) return;
        await Promise.all(running);
      }
    },
    until: (key, timeoutMs, done) =>
      firstChange(listeners, records, backendPath(key), timeoutMs, done),
    onChange(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => listeners.delete(listener) };
    },
  };
}

function firstChange(
  listeners: Set<(record: DiskRecord) => void>,
  records: ReadonlyMap<string, DiskRecord>,
  path: string,
  timeoutMs: number,
  done: (record: DiskRecord) => boolean,
): Promise<DiskRecord> {
  const now = records.get(path);
  if (now !== undefined && done(now)) return Promise.resolve(now);
  const { promise, resolve } = Promise.withResolvers<DiskRecord>();
  const look = (record: DiskRecord): void => {
    if (record.path === path && done(record)) resolve(record);
  };
  listeners.add(look);
  const what = `the outcome for ${path}`;
  return within(timeoutMs, what, () => promise).finally(() => listeners.delete(look));
}
