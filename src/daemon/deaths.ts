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
   * Asks the store about every guest of interest. Gone is who was alive once and is not any more;
   * with `strangersToo` also who was never seen alive: a start finds guests that died before it.
   */
  look(strangersToo?: boolean): Promise<void>;
}

export function watchDeaths(options: DeathsOptions): Deaths {
  const gone = new Map<number, number>();
  /** Guests that were met, and whether they were ever seen alive. */
  const met = new Map<number, boolean>();
  const timers = new Set<NodeJS.Timeout>();

  function found(domid: number): void {
    gone.set(domid, options.now());
    options.onDeath(domid);
    const timer = setTimeout(() => {
      timers.delete(timer);
      if (gone.has(domid)) options.onDeath(domid);
    }, options.graceMs + 1);
    timers.add(timer.unref());
  }

  return {
    goneSinceMs: (domid) => gone.get(domid),
    meet(domid) {
      if (met.has(domid)) return;
      met.set(domid, false);
      const note = (alive: boolean): void => void met.set(domid, alive);
      // A lost store is told elsewhere; the next look asks again.
      options.store.isIntroduced(domid).then(note, () => met.delete(domid));
    },
    async look(strangersToo = false) {
      const interest = options.domids();
      const domids = [...interest];
      for (const domid of met.keys()) {
        if (interest.has(domid)) continue;
        met.delete(domid);
        gone.delete(domid);
      }
      const alive = await Promise.all(domids.map((domid) => options.store.isIntroduced(domid)));
      for (const [index, domid] of domids.entries()) {
        const wasAlive = strangersToo || met.get(domid) === true;
        met.set(domid, alive[index] === true || wasAlive);
        if (alive[index] === true) gone.delete(domid);
        else if (wasAlive && !gone.has(domid)) found(domid);
      }
    },
    forget() {
      met.clear();
      gone.clear();
    },
    [Symbol.dispose]() {
      for (const timer of timers) clearTimeout(timer);
    },
  };
}
