/** The tap's workers as its main thread sees them: orders go to whichever has the disk. */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { Failure, isFailureKind } from '../base/failure.ts';
import { createEventFd, signalEventFd } from '../sys/wait.ts';
import type {
  AnswerMessage,
  DiskName,
  DiskState,
  Medium,
  OrderKind,
  OrderMessage,
  Orders,
  PauseMessage,
  ReadyMessage,
  WorkerOptions,
} from './orders.ts';

export interface Workers extends AsyncDisposable {
  /** @throws Failure of what was ordered; not-found when no worker has the disk */
  order<
    K extends
      | 'connect'
      | 'disconnect'
      | 'export'
      | 'change'
      | 'resize'
      | 'limit'
      | 'whenFull'
      | 'hold'
      | 'close',
  >(
    kind: K,
    order: Orders[K]['order'],
  ): Promise<Orders[K]['answer']>;
  /** Opens a disk on the worker that has fewest, or has the one beside it. */
  open(order: Orders['open']['order']): Promise<Orders['open']['answer']>;
  /** What of a medium is encrypted. @throws Failure of opening it */
  lockedParts(medium: Medium): Promise<Orders['lockedParts']['answer']>;
  list(): Promise<DiskState[]>;
  /** Of the disks that are open, or being opened. */
  names(): DiskName[];
  /** Told when a disk begins to wait for room, and when it does so no longer. @returns what ends that */
  onPause(listener: (pause: PauseMessage) => void): Disposable;
  /**
   * Whether each worker answers in this time, or waits for a disk where no successor of it would
   * fare better. A long discard is carried out in one go: its worker answers afterwards.
   */
  areAlive(withinMs: number): Promise<boolean>;
  /** Resolves when every worker has opened what it needs, Xen's devices among it. */
  readonly ready: Promise<unknown>;
  /** Rejects when a worker has failed: nothing of the tap may go on then. */
  readonly failed: Promise<never>;
}

interface Hand {
  readonly disks: Set<DiskName>;
  ask<K extends OrderKind>(kind: K, order: Orders[K]['order']): Promise<Orders[K]['answer']>;
  isAlive(withinMs: number): Promise<boolean>;
  readonly ready: Promise<void>;
  readonly failed: Promise<never>;
  readonly ended: Promise<void>;
}

/**
 * Starts so many threads; `ready` tells when they serve.
 * @param onFault told at the end what may be lost of disks that could not be flushed
 */
export function startWorkers(
  count: number,
  options: Omit<WorkerOptions, 'wakeFd'>,
  onFault: (sentence: string) => void,
): Workers {
  const listeners = new Set<(pause: PauseMessage) => void>();
  const onPause = (pause: PauseMessage): void => {
    for (const listener of listeners) listener(pause);
  };
  const hands = Array.from({ length: count }, () => startHand(options, onPause));
  const find = (name: DiskName): Hand => {
    const hand = hands.find(({ disks }) => disks.has(name));
    if (hand !== undefined) return hand;
    throw new Failure('not-found', `the tap has no disk ${name} — open it first`);
  };
  const idlest = (): Hand => {
    const [hand] = hands.toSorted((one, other) => one.disks.size - other.disks.size);
    if (hand === undefined) throw new Error('a tap has workers');
    return hand;
  };
  return {
    async order(kind, order) {
      const hand = find(order.name);
      const answer = await hand.ask(kind, order);
      if (kind === 'close') hand.disks.delete(order.name);
      return answer;
    },
    async open(order) {
      if (hands.some(({ disks }) => disks.has(order.name))) {
        throw new Failure('exists', `the tap has a disk ${order.name} already`);
      }
      const { beside = '' } = order;
      const hand = hands.find(({ disks }) => disks.has(beside)) ?? idlest();
      hand.disks.add(order.name);
      try {
        return await hand.ask('open', order);
      } catch (thrown) {
        hand.disks.delete(order.name);
        throw thrown;
      }
    },
    lockedParts: (medium) => idlest().ask('lockedParts', { medium }),
    async list() {
      const lists = await Promise.all(hands.map((hand) => hand.ask('list', {})));
      return lists.flat();
    },
    names: () => hands.flatMap(({ disks }) => [...disks]),
    onPause(listener) {
      listeners.add(listener);
      return { [Symbol.dispose]: () => void listeners.delete(listener) };
    },
    async areAlive(withinMs) {
      const alive = await Promise.all(hands.map((hand) => hand.isAlive(withinMs)));
      return alive.every(Boolean);
    },
    ready: Promise.all(hands.map(({ ready }) => ready)),
    failed: Promise.race(hands.map(({ failed }) => failed)),
    async [Symbol.asyncDispose]() {
      // One that has failed is told of by `failed`, and has nothing to stop any more.
      const left = await Promise.allSettled(hands.map((hand) => hand.ask('stop', {})));
      for (const each of left) if (each.status === 'fulfilled') each.value.forEach(onFault);
      await Promise.all(hands.map(({ ended }) => ended));
    },
  };
}

function startHand(
  options: Omit<WorkerOptions, 'wakeFd'>,
  onPause: (pause: PauseMessage) => void,
): Hand {
  const wake = createEventFd();
  const workerData: WorkerOptions = { ...options, wakeFd: wake.number };
  const worker = new Worker(new URL('worker.ts', import.meta.url), { workerData });
  const waiting = new Map<number, PromiseWithResolvers<unknown>>();
  let lastId = 0;
  const ready = Promise.withResolvers<void>();
  let thread = '';
  worker.once('message', (message: ReadyMessage) => {
    ({ thread } = message);
    ready.resolve();
  });
  worker.on('message', (message: ReadyMessage | PauseMessage | AnswerMessage) => {
    if ('thread' in message) return;
    if ('paused' in message) return onPause(message);
    const { id, answer, failure } = message;
    const asked = waiting.get(id);
    waiting.delete(id);
    if (failure === undefined) asked?.resolve(answer);
    else asked?.reject(new Failure(failure.kind, failure.message, failure.facts));
  });
  const failed = Promise.withResolvers<never>();
  const ended = Promise.withResolvers<void>();
  worker.on('error', (thrown) => failed.reject(asThrown(thrown)));
  worker.on('exit', () => ended.resolve());
  const ask: Hand['ask'] = async (kind, order) => {
    lastId += 1;
    const asked = Promise.withResolvers<unknown>();
    waiting.set(lastId, asked);
    worker.postMessage({ id: lastId, kind, order } satisfies OrderMessage, []);
    signalEventFd(wake.number);
    return (await Promise.race([asked.promise, failed.promise])) as never;
  };
  let answering: Promise<boolean> | undefined;
  return {
    disks: new Set(),
    ready: ready.promise,
    failed: failed.promise,
    ended: ended.promise,
    ask,
    async isAlive(withinMs) {
      // One that is silent is not asked again and again.
      answering ??= ask('list', {}).then(
        () => {
          answering = undefined;
          return true;
        },
        // One that has failed is told of by `failed`.
        () => false,
      );
      using stack = new DisposableStack();
      const over = stack.adopt(new AbortController(), (each) => each.abort());
      const late = sleep(withinMs, over.signal).then(() => waitsForDisk(thread));
      return await Promise.race([answering, late]);
    },
  };
}

/** Whether a thread of ours is in a wait that nothing but the disk ends: proc_pid_stat(5), state D. */
function waitsForDisk(thread: string): boolean {
  return / \(.*\) D /.test(readFileSync(`/proc/self/task/${thread}/stat`, 'utf8'));
}

/** What a worker threw, whose class does not cross over to us. */
function asThrown(thrown: unknown): unknown {
  if (!(thrown instanceof Error && 'kind' in thrown && isFailureKind(thrown.kind))) return thrown;
  return new Failure(thrown.kind, thrown.message, {}, thrown);
}
