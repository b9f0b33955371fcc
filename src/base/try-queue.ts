/** Work that takes long, and is asked for again by who could not wait for its end: a few at a time. */
import { Failure } from './failure.ts';

/** Work that may throw once it is not wanted any more: then nobody has asked for it for long. */
export type Try<T> = (isWanted: () => boolean) => Promise<T>;

/**
 * Gives the end of the try that is known by `name`; `start` begins it, unless somebody asked before.
 * @throws Failure gone as soon as `waits` aborts; whatever the try threw
 */
export type TryQueue<T> = (name: string, start: Try<T>, waits: AbortSignal) => Promise<T>;

interface Asked<T> {
  /** Undefined once it has begun. */
  start: Try<T> | undefined;
  readonly end: PromiseWithResolvers<T>;
  hasEnded: boolean;
  waiting: number;
  forgetting: NodeJS.Timeout | undefined;
}

/**
 * Makes a queue. What nobody waits for is not begun, but keeps its turn for who asks again; what has
 * begun goes on, and its end is kept for who asks again.
 * @param most tries at a time
 * @param keptMs for how long after the last one gave up
 */
export function tryQueue<T>(most: number, keptMs: number): TryQueue<T> {
  const all = new Map<string, Asked<T>>();
  let running = 0;
  const begin = (name: string, asked: Asked<T>, start: Try<T>): void => {
    const over = (): void => {
      asked.hasEnded = true;
      running -= 1;
      beginNext();
    };
    asked.start = undefined;
    running += 1;
    const isWanted = (): boolean => all.get(name) === asked;
    void start(isWanted).finally(over).then(asked.end.resolve, asked.end.reject);
  };
  const beginNext = (): void => {
    for (const [name, asked] of all) {
      if (running >= most) return;
      if (asked.start !== undefined && asked.waiting > 0) begin(name, asked, asked.start);
    }
  };
  return async (name, start, waits) => {
    const gone = Promise.withResolvers<never>();
    const leave = (): void => gone.reject(nobodyWaits());
    if (waits.aborted) throw nobodyWaits();
    waits.addEventListener('abort', leave, { once: true });
    const asked = all.get(name) ?? newlyAsked(start);
    all.set(name, asked);
    clearTimeout(asked.forgetting);
    asked.waiting += 1;
    beginNext();
    try {
      return await Promise.race([asked.end.promise, gone.promise]);
    } finally {
      waits.removeEventListener('abort', leave);
      asked.waiting -= 1;
      const forget = (): unknown => all.get(name) === asked && all.delete(name);
      if (asked.hasEnded) forget();
      else if (asked.waiting === 0) asked.forgetting = setTimeout(forget, keptMs).unref();
    }
  };
}

function nobodyWaits(): Failure {
  return new Failure('gone', 'nobody waits for it any more');
}

function newlyAsked<T>(start: Try<T>): Asked<T> {
  const end = Promise.withResolvers<T>();
  return { start, end, hasEnded: false, waiting: 0, forgetting: undefined };
}
