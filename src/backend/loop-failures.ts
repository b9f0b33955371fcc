/** What the kernel answers to those who ask it for loop devices, as sentences. */
import { Failure } from '../base/failure.ts';
import { isErrno } from '../sys/ffi.ts';

/** The kernel would not make another device. */
export function noDevices(thrown: unknown): Failure {
  const advice = 'detach unused ones (losetup --list) or raise the limit';
  return new Failure('exhausted', `the kernel gives no more loop devices — ${advice}`, {}, thrown);
}

/** Why `name` was not bound; what is no errno is given back as it came. */
export function bindFailure(thrown: unknown, name: string): unknown {
  if (isErrno(thrown, 'EMFILE', 'ENFILE')) {
    const advice = 'raise LimitNOFILE of vbdd';
    return new Failure(
      'exhausted',
      `no file descriptor is left for ${name} — ${advice}`,
      {},
      thrown,
    );
  }
  if (isErrno(thrown, 'ENOMEM', 'ENOSPC')) {
    return new Failure('exhausted', `the kernel has no memory for a loop on ${name}`, {}, thrown);
  }
  if (isErrno(thrown)) {
    return new Failure('io', `the kernel refuses a loop on ${name}: ${thrown.code}`, {}, thrown);
  }
  return thrown;
}
