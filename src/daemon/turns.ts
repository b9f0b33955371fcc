/** Whose turn it is: work that keeps the thread busy for long is let in one at a time. */

/**
 * Makes a queue: each call resolves in its turn, and between two turns the event loop runs. While
 * nobody waits, a turn costs nothing.
 */
export function turnQueue(): () => Promise<void> {
  let next = Promise.resolve();
  return () => {
    const turn = next;
    next = turn.then(() => new Promise((resolve) => void setImmediate(resolve)));
    return turn;
  };
}
