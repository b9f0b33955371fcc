/** What happens to disks, for whoever listens: one event each time that a disk has become another. */
import type { DiskRecord } from '../backend/disk-record.ts';
import { sentenceOf } from '../base/failure.ts';
import type { DiskEvent, DiskView } from './api/shapes.ts';
import type { Daemon } from './daemon.ts';
import { guestNames } from './guests.ts';
import { viewOf } from './views.ts';

export interface Events extends Disposable {
  /** Disks that are there already are no news. @returns what ends the listening */
  follow(listener: (event: DiskEvent) => void): Disposable;
}

/** Follows the daemon's disks; it costs nothing while nobody listens. */
export function createEvents({ world, disks }: Daemon): Events {
  const listeners = new Set<(event: DiskEvent) => void>();
  const shown = new Map<string, DiskView>();
  const show = (record: DiskRecord): DiskView => viewOf(world, record, undefined);
  const report = (thrown: unknown): void => world.log('warning', sentenceOf(thrown));
  /** One after the other: a name takes a round trip, and events stay in order. */
  let told = Promise.resolve();

  /** A guest that is destroyed loses its name before its disks are gone. */
  const names = new Map<number, string>();
  const learnNames = async (domids: readonly number[]): Promise<void> => {
    for (const [domid, name] of await guestNames(world.store, domids)) names.set(domid, name);
  };
  const tell = async (time: string, event: DiskEvent['event'], disk: DiskView): Promise<void> => {
    await learnNames([disk.domid]);
    const guest = names.get(disk.domid) ?? null;
    for (const listener of listeners) listener({ time, event, disk: { ...disk, guest } });
  };
  const onChange = (record: DiskRecord): void => {
    if (listeners.size === 0) return;
    const before = shown.get(record.path);
    const isGone = !disks.records.has(record.path);
    const now = isGone ? before : show(record);
    if (now === undefined) return;
    if (isGone) shown.delete(record.path);
    else shown.set(record.path, now);
    const event = isGone ? 'gone' : newsOf(before, now);
    if (event === undefined) return;
    const time = new Date().toISOString();
    told = told.then(() => tell(time, event, now)).catch(report);
  };
  const listening = disks.onChange(onChange);
  return {
    follow(listener) {
      if (listeners.size === 0) {
        for (const record of disks.records.values()) shown.set(record.path, show(record));
        const domids = [...shown.values()].map(({ domid }) => domid);
        told = told.then(() => learnNames(domids)).catch(report);
      }
      listeners.add(listener);
      return {
        [Symbol.dispose]() {
          listeners.delete(listener);
          if (listeners.size > 0) return;
          shown.clear();
          names.clear();
        },
      };
    },
    [Symbol.dispose]: () => listening[Symbol.dispose](),
  };
}

/** How many share its file with it is no news of this disk. */
function newsOf(before: DiskView | undefined, now: DiskView): DiskEvent['event'] | undefined {
  if (before === undefined || before.state !== now.state) return now.state;
  const same = JSON.stringify({ ...before, sharers: now.sharers }) === JSON.stringify(now);
  return same ? undefined : 'changed';
}
