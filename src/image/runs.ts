/** Finds in a buffer what is worth storing: what is not zero, or not what is there already. */

const unitBytes = 4096;
const zeros = Buffer.alloc(unitBytes);

/**
 * Cuts `view` into runs that must be stored and runs that need not: those that are zero or, with
 * `now`, those that are as there.
 * @param now what is there already; as long as `view`
 * @param sparseBytes a run that need not be stored has at least this length, unless it touches an
 * end of the buffer; 0: everything is stored
 */
export function splitRuns(
  view: Buffer,
  now: Buffer | undefined,
  sparseBytes: number,
  store: (at: number, end: number) => void,
  skip: (at: number, end: number) => void,
): void {
  if (sparseBytes === 0) return store(0, view.length);
  const step = Math.min(unitBytes, sparseBytes);
  let storeFrom = 0;
  let skipFrom = -1;
  for (let at = 0; ; at += step) {
    const end = Math.min(at + step, view.length);
    if (at < end && isSame(view, now, at, end)) {
      if (skipFrom === -1) skipFrom = at;
      continue;
    }
    const upTo = Math.min(at, view.length);
    const touches = skipFrom === 0 || upTo === view.length;
    if (skipFrom !== -1 && (touches || upTo - skipFrom >= sparseBytes)) {
      if (storeFrom < skipFrom) store(storeFrom, skipFrom);
      skip(skipFrom, upTo);
      storeFrom = upTo;
    }
    skipFrom = -1;
    if (upTo === view.length) break;
  }
  if (storeFrom < view.length) store(storeFrom, view.length);
}

function isSame(view: Buffer, now: Buffer | undefined, at: number, end: number): boolean {
  if (now !== undefined) return view.compare(now, at, end, at, end) === 0;
  // Most of what is not zero shows it in its first byte, and the call costs more than a look.
  return view[at] === 0 && view.compare(zeros, 0, end - at, at, end) === 0;
}

/** Whether every byte is zero. */
export function isAllZero(view: Buffer): boolean {
  for (let at = 0; at < view.length; at += unitBytes) {
    if (!isSame(view, undefined, at, Math.min(at + unitBytes, view.length))) return false;
  }
  return true;
}
