/** A text file that grows: what has come, and waiting for what will. */
import { closeSync, existsSync, openSync, readSync, watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { within } from '../src/base/deadline.ts';

export interface Followed extends Disposable {
  /** All of it so far. */
  text(): string;
  /**
   * Waits for a match at or after the character `from`.
   * @throws Failure timeout
   */
  match(
    pattern: RegExp,
    timeoutMs: number,
    from?: number,
    signal?: AbortSignal,
  ): Promise<RegExpExecArray>;
}

/** Follows a file of an existing folder; the file itself may come later, or be emptied. */
export function follow(path: string): Followed {
  let text = '';
  let at = 0;
  const chunk = Buffer.alloc(65536);
  const listeners = new Set<() => void>();
  function read(): void {
    if (!existsSync(path)) return;
    const fd = openSync(path, 'r');
    try {
      for (;;) {
        const length = readSync(fd, chunk, 0, chunk.length, at);
        if (length === 0) break;
        // Consoles speak ASCII; latin1 keeps a cut character from swallowing its neighbours.
        text += chunk.toString('latin1', 0, length).replaceAll('\r', '');
        at += length;
      }
    } finally {
      closeSync(fd);
    }
    for (const listener of listeners) listener();
  }
  // Whoever waits for a match has a deadline; a file that nobody waits for keeps no command alive.
  // The file may be written by another of its names.
  const watcher = watch(dirname(path), { persistent: false }, read);
  read();
  return {
    text: () => text,
    match: async (pattern, timeoutMs, from = 0, signal) => {
      const { promise, resolve } = Promise.withResolvers<RegExpExecArray>();
      const look = (): void => {
        const found = pattern.exec(text.slice(from));
        if (found !== null) resolve(found);
      };
      listeners.add(look);
      try {
        look();
        return await within(timeoutMs, `${pattern} in ${basename(path)}`, () => promise, signal);
      } finally {
        listeners.delete(look);
      }
    },
    [Symbol.dispose]: () => watcher.close(),
  };
}
