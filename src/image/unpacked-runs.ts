/** The compressed runs that were unpacked lately, bounded in bytes; the least used lately go first. */

export interface UnpackedRuns {
  /** What the run at byte `at` of the file unpacks to, when it is at hand. */
  find(file: number, at: number): Uint8Array | undefined;
  add(file: number, at: number, bytes: Uint8Array): void;
  /** Forgets all runs of a file: it was written to, or is another one now. */
  drop(file: number): void;
}

/** An empty store of runs. @param maxBytes what they may take together */
export function createUnpackedRuns(maxBytes: number): UnpackedRuns {
  // A map keeps the order in which keys were set: the first is the one that was not used for longest.
  const runs = new Map<string, { readonly file: number; readonly bytes: Uint8Array }>();
  let heldBytes = 0;
  const remove = (key: string): void => {
    heldBytes -= runs.get(key)?.bytes.length ?? 0;
    runs.delete(key);
  };
  return {
    find(file, at) {
      if (runs.size === 0) return undefined;
      const key = `${file}:${at}`;
      const run = runs.get(key);
      if (run === undefined) return undefined;
      runs.delete(key);
      runs.set(key, run);
      return run.bytes;
    },
    add(file, at, bytes) {
      const key = `${file}:${at}`;
      remove(key);
      runs.set(key, { file, bytes });
      heldBytes += bytes.length;
      for (const oldest of runs.keys()) {
        if (heldBytes <= maxBytes) break;
        remove(oldest);
      }
    },
    drop(file) {
      for (const [key, run] of runs) if (run.file === file) remove(key);
    },
  };
}
