/**
 * Block devices that are handed to guests as they are: one exclusive hold per device, however many
 * guests share it, so that this host cannot mount it afterwards while blkback's plain open succeeds.
 */
import { Failure } from '../base/failure.ts';
import { deviceIdentity } from '../disk/identity.ts';
import { diskSequence } from '../sys/blockdev.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import { type Fd, O, openFd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { openFailure } from './target.ts';

export interface DeviceRequest {
  /** An open descriptor of the device; borrowed. */
  readonly fd: number;
  readonly device: DeviceNumber;
  readonly readOnly: boolean;
  /** Someone in this host uses it too and the rules allow that: then it is held, but not claimed. */
  readonly hostShares: boolean;
  /** For sentences. */
  readonly path: string;
}

export interface DeviceClaim extends Disposable {
  readonly device: DeviceNumber;
  readonly diskSequence: number | undefined;
  readonly exclusive: boolean;
}

export interface DevicePool extends Disposable {
  /**
   * Holds the device, exclusively where the rules want it.
   * @throws Failure in-use when something in this host has it, a mount or a mapped device
   */
  acquire(request: DeviceRequest): DeviceClaim;
  readonly held: number;
}

interface Entry {
  readonly fd: Fd;
  readonly exclusive: boolean;
  users: number;
}

/** A pool that holds nothing yet. */
export function createDevicePool(): DevicePool {
  const entries = new Map<string, Entry>();
  return {
    acquire(request) {
      const key = deviceIdentity(request.device);
      const entry = entries.get(key) ?? { ...openHeld(request), users: 0 };
      entries.set(key, entry);
      entry.users += 1;
      let released = false;
      return {
        device: request.device,
        diskSequence: sequenceOf(entry.fd.number),
        exclusive: entry.exclusive,
        [Symbol.dispose]() {
          if (released) return;
          released = true;
          entry.users -= 1;
          if (entry.users > 0) return;
          entries.delete(key);
          entry.fd.close();
        },
      };
    },
    get held() {
      return entries.size;
    },
    [Symbol.dispose]() {
      for (const entry of entries.values()) entry.fd.close();
      entries.clear();
    },
  };
}

function openHeld(request: DeviceRequest): Pick<Entry, 'fd' | 'exclusive'> {
  const flags = request.readOnly ? O.RDONLY : O.RDWR;
  const again = `/proc/self/fd/${request.fd}`;
  try {
    if (request.hostShares) return { fd: openFd(again, flags), exclusive: false };
    return { fd: openFd(again, flags | O.EXCL), exclusive: true };
  } catch (thrown) {
    if (!isErrno(thrown, 'EBUSY')) throw openFailure(request.path, thrown);
    const advice = 'see lsblk and /proc/mounts, and free it there first';
    const sentence = `${request.path} is in use in this host — ${advice}`;
    throw new Failure('in-use', sentence, { path: request.path, errno: thrown.code }, thrown);
  }
}

/** Kernels before 5.15 have no disk sequence numbers. */
function sequenceOf(fd: number): number | undefined {
  try {
    return diskSequence(fd);
  } catch (thrown) {
    if (isErrno(thrown)) return undefined;
    throw thrown;
  }
}
