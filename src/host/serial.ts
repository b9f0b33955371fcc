/** Tasks that run one after another, as the events of one device do in a kernel. */

export interface Serial {
  /** Runs `task` after all that were given before it. */
  run(task: () => Promise<void>): void;
  /** True when nothing runs or waits. */
  readonly idle: boolean;
  /** Resolves when all that was given so far has run. */
  settled(): Promise<void>;
}

/** @param onFailure is told what a task threw; the tasks after it run all the same */
export function createSerial(onFailure: (thrown: unknown) => void): Serial {
  let last: Promise<void> = Promise.resolve();
  let waiting = 0;
  return {
    run(task) {
      waiting += 1;
      last = last
        .then(task)
        .catch(onFailure)
        .finally(() => {
          waiting -= 1;
        });
    },
    get idle() {
      return waiting === 0;
    },
    settled: () => last,
  };
}
