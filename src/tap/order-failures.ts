/** What the kernel refuses of an order, as that order's failure: the tap's other disks go on. */
import { Failure } from '../base/failure.ts';
import { isErrno } from '../sys/ffi.ts';

/** What is told of those that an admin can do something about, and what that is. */
const shortages: Readonly<Record<string, string>> = {
  EMFILE: 'vbd-tap has no descriptor left — raise its LimitNOFILE',
  ENFILE: 'the host has no descriptor left — raise fs.file-max',
  ENOMEM: 'the kernel has no memory left for vbd-tap',
};

/** @throws what was thrown, when no call of the kernel is at the bottom of it: that is a bug */
export function failureOfOrder(thrown: unknown): Failure {
  if (thrown instanceof Failure) {
    const { message, facts } = thrown;
    const errno = String(facts['errno']);
    const shortage = shortages[errno];
    if (shortage === undefined || !message.endsWith(`: ${errno}`)) return thrown;
    return new Failure('exhausted', message.slice(0, -errno.length) + shortage, facts, thrown);
  }
  const code = codeOf(thrown);
  if (code === undefined || !(thrown instanceof Error)) throw thrown;
  const shortage = shortages[code];
  if (shortage !== undefined) return new Failure('exhausted', shortage, { errno: code }, thrown);
  return new Failure('io', thrown.message, { errno: code }, thrown);
}

/** Of our own calls, and of those that Node makes for us. */
function codeOf(thrown: unknown): string | undefined {
  if (isErrno(thrown)) return thrown.code;
  if (thrown instanceof Error && 'syscall' in thrown && 'code' in thrown)
    return String(thrown.code);
  return undefined;
}
