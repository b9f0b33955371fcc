/** What the page knows: disks and events as vbdd tells them, and what disks have done in the last minutes. */
import type { DiskEvent, DiskView, LoadView } from '../daemon/api/shapes.ts';
import { byKey, keyOf, type Rate, ratesBetween, totalOf } from './rates.ts';

/** A second of all disks. */
export interface Tick {
  /** Seconds since 1970. */
  readonly time: number;
  readonly rates: ReadonlyMap<string, Rate>;
  readonly total: Rate;
}

export interface Model {
  readonly disks: ReadonlyMap<string, DiskView>;
  /** The latest first. */
  readonly events: readonly DiskEvent[];
  readonly history: readonly Tick[];
  readonly version: string;
  readonly rights: 'admin' | 'read';
  /** Undefined while vbdd answers. */
  readonly problem: string | undefined;
  /** Why the token that was taken is taken no more. */
  readonly refusal: string | undefined;
  /** Told when anything but `history` is another; once for all that is in one frame. */
  onChange(listener: () => void): Disposable;
  /** Told of each new second. */
  onTick(listener: (tick: Tick) => void): Disposable;
  setDisks(disks: readonly DiskView[]): void;
  setStatus(status: { readonly version: string; readonly rights: 'admin' | 'read' }): void;
  setProblem(problem: string | undefined): void;
  setRefusal(sentence: string): void;
  addEvent(event: DiskEvent): void;
  /** @param load with the time when it was counted */
  addLoad(load: { readonly time_ms: number; readonly disks: readonly LoadView[] }): void;
  /** What was counted before is too long ago to tell what a second is like. */
  forgetLoad(): void;
}

const MOST_EVENTS = 200;
const MOST_TICKS = 180;

/** Knows nothing yet. */
export function createModel(): Model {
  const disks = new Map<string, DiskView>();
  const changed = createCalls<undefined>();
  const ticked = createCalls<Tick>();
  let before: { disks: ReadonlyMap<string, LoadView>; ms: number } | undefined;
  let isTold = true;
  const change = (): void => {
    if (!isTold) return;
    isTold = false;
    requestAnimationFrame(() => {
      isTold = true;
      changed.call(undefined);
    });
  };
  const model = {
    disks,
    events: [] as DiskEvent[],
    history: [] as Tick[],
    version: '',
    rights: 'read' as Model['rights'],
    problem: undefined as string | undefined,
    refusal: undefined as string | undefined,
    onChange: changed.add,
    onTick: ticked.add,
    setDisks(all: readonly DiskView[]) {
      disks.clear();
      for (const disk of all) disks.set(keyOf(disk), disk);
      change();
    },
    setStatus({ version, rights }: Pick<Model, 'version' | 'rights'>) {
      Object.assign(model, { version, rights });
      if (rights === 'admin') model.refusal = undefined;
      change();
    },
    setProblem(problem: string | undefined) {
      if (model.problem === problem) return;
      model.problem = problem;
      change();
    },
    setRefusal(sentence: string) {
      Object.assign(model, { rights: 'read', refusal: sentence });
      change();
    },
    addEvent(event: DiskEvent) {
      if (event.event === 'gone') disks.delete(keyOf(event.disk));
      else put(disks, event.disk);
      model.events = [event, ...model.events.slice(0, MOST_EVENTS - 1)];
      change();
    },
    addLoad({ time_ms: nowMs, disks: now }: Parameters<Model['addLoad']>[0]) {
      const past = before;
      const counted = byKey(now);
      before = { disks: counted, ms: nowMs };
      if (past === undefined || nowMs <= past.ms) return;
      const rates = ratesBetween(past.disks, counted, (nowMs - past.ms) / 1000);
      const tick = { time: Date.now() / 1000, rates, total: totalOf(rates.values()) };
      model.history.push(tick);
      if (model.history.length > MOST_TICKS) model.history.shift();
      ticked.call(tick);
    },
    forgetLoad() {
      before = undefined;
    },
  };
  return model;
}

/** In their order: by guest, and then by disk. */
function put(disks: Map<string, DiskView>, disk: DiskView): void {
  const isNew = !disks.has(keyOf(disk));
  disks.set(keyOf(disk), disk);
  if (!isNew) return;
  const sorted = [...disks].sort(
    ([, one], [, other]) => one.domid - other.domid || one.devid - other.devid,
  );
  disks.clear();
  for (const [key, each] of sorted) disks.set(key, each);
}

interface Calls<T> {
  readonly add: (listener: (told: T) => void) => Disposable;
  readonly call: (told: T) => void;
}

function createCalls<T>(): Calls<T> {
  const listeners = new Set<(told: T) => void>();
  return {
    add(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    call(told) {
      for (const listener of listeners) listener(told);
    },
  };
}
