/** What vbdd counts from its start on, for its metrics: how attaches ended, and how long they took. */
import type { DiskRecord } from '../backend/disk-record.ts';
import type { Failure } from '../base/failure.ts';
import type { Daemon } from './daemon.ts';

/** Attaches are counted by how long they took: place n has those of no more than this many seconds. */
export const ATTACH_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

export interface Tally extends Disposable {
  readonly attached: number;
  readonly refused: number;
  /** One more than there are bounds: the last has those that took longer. */
  readonly attachSeconds: readonly number[];
  readonly totalAttachSeconds: number;
  readonly storeIsThere: boolean;
}

/** Begins to count at nothing. */
export function createTally({ world, disks }: Daemon): Tally {
  const held = new WeakSet<DiskRecord>();
  const refusals = new WeakSet<Failure>();
  const tally = {
    attached: 0,
    refused: 0,
    attachSeconds: Array.from({ length: ATTACH_SECONDS.length + 1 }, () => 0),
    totalAttachSeconds: 0,
    storeIsThere: true,
  };
  const look = (record: DiskRecord): void => {
    const refusal = record.refusal ?? record.outcome?.refusal;
    if (refusal !== undefined && !refusals.has(refusal)) {
      refusals.add(refusal);
      tally.refused += 1;
    }
    if (record.holdMs === undefined || held.has(record)) return;
    held.add(record);
    const seconds = record.holdMs / 1000;
    const at = ATTACH_SECONDS.findIndex((bound) => seconds <= bound);
    const place = at < 0 ? ATTACH_SECONDS.length : at;
    tally.attachSeconds[place] = (tally.attachSeconds[place] ?? 0) + 1;
    tally.attached += 1;
    tally.totalAttachSeconds += seconds;
  };
  for (const record of disks.records.values()) look(record);
  const listeners = [
    disks.onChange(look),
    world.store.onConnection((connected) => {
      tally.storeIsThere = connected;
    }),
  ];
  const stop = (): void => {
    for (const listener of listeners) listener[Symbol.dispose]();
  };
  return Object.assign(tally, { [Symbol.dispose]: stop });
}
