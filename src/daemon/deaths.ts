/** Which guests are gone: asked of the store when it says that some domain was released. */
import type { Store } from '../xenstore/store.ts';

export interface DeathsOptions {
  readonly store: Store;
  readonly now: () => number;
  readonly graceMs: number;
  /** The guests that are of interest now. */
  readonly domids: () => ReadonlySet<number>;
  /** Called when a guest is found gone, and again when its toolstack's time is over. */
  readonly onDeath: (domid: number) => void;
}

export interface Deaths extends Disposable {
  /** Asks once whether a new guest is alive; the request travels with others of this moment. */
  meet(domid: number): void;
  /** When a domain was found gone; undefined while it is not known to be. */
  goneSinceMs(domid: number): number | undefined;
  /** After the store was away nobody counts as seen alive: it may have come back with less in it. */
  forget(): void;
  /**
   * Asks the store about every guest of interest. Gone is who was alive once and is not any more, or
   * is a stranger still after the time that toolstacks have; with `strangersToo` whoever was never
   * seen alive: a start finds guests that died before it.
   */
  look(strangersToo?: boolean): Promise<void>;
}

/** Watches for the end of guests that have disks. */
export function watchDeaths(options: DeathsOptions): Deaths {
  const gone = new Map<number, number>();
  /** Guests that were met, and whether they were ever seen alive. */
  const met = new Map<number, boolean>();
  /** Guests that had disks before they were introduced, or died in between; since when. */
  const strangers = new Map<number, number>();
  const timers = new Set<NodeJS.Timeout>();

  function afterGrace(work: () => void): void {
    const timer = setTimeout(() => {
      timers.delete(timer);
      work();
    }, options.graceMs + 1);
    timers.add(timer.unref());
  }

  function found(domid: number): void {
    strangers.delete(domid);
    gone.set(domid, options.now());
    options.onDeath(domid);
    afterGrace(() => {
      if (gone.has(domid)) options.onDeath(domid);
    });
  }

  function isOverdue(domid: number): boolean {
    const since = strangers.get(domid);
    return since !== undefined && options.now() - since >= options.graceMs;
  }

  async function look(strangersToo = false): Promise<void> {
    const interest = options.domids();
    const domids = [...interest];
    for (const domid of met.keys()) {
      if (interest.has(domid)) continue;
      for (const book of [met, gone, strangers]) book.delete(domid);
    }
    const { store } = options;
    const [alive, vms] = await Promise.all([
      Promise.all(domids.map((domid) => store.isIntroduced(domid))),
      store.readAll(domids.map((domid) => `/local/domain/${domid}/vm`)),
    ]);
    for (const [index, domid] of domids.entries()) {
      // Nodes of a domain that nobody ever made are someone's experiment, not a guest that died.
      const overdue = isOverdue(domid) && vms.values[index] !== undefined;
      const wasAlive = strangersToo || met.get(domid) === true || overdue;
      met.set(domid, alive[index] === true || wasAlive);
      if (alive[index] === true) {
        gone.delete(domid);
        strangers.delete(domid);
      } else if (wasAlive && !gone.has(domid)) found(domid);
    }
  }

  return {
    goneSinceMs: (domid) => gone.get(domid),
    meet(domid) {
      if (met.has(domid)) return;
      met.set(domid, false);
      const note = (alive: boolean): void => {
        met.set(domid, alive);
        if (alive) return;
        strangers.set(domid, options.now());
        afterGrace(() => void look().catch(() => {}));
      };
      // A lost store is told elsewhere; the next look asks again.
      options.store.isIntroduced(domid).then(note, () => met.delete(domid));
    },
    look,
    forget() {
      for (const book of [met, gone, strangers]) book.clear();
    },
    [Symbol.dispose]() {
      for (const timer of timers) clearTimeout(timer);
    },
  };
}
