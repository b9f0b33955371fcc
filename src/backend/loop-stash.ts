/**
 * What vbdd leaves with the service manager: each held loop device by a name that says which
 * binding it is, so that the next vbdd need not believe anything that it cannot check.
 */
import { sentenceOf } from '../base/failure.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import type { LoopStatus } from '../sys/loop.ts';
import type { ServiceManager } from '../sys/service.ts';

export interface LoopStash {
  keep(name: string, fd: number): void;
  drop(name: string): void;
}

export interface StashedLoop {
  readonly number: number;
  readonly diskSequence: number;
  readonly status: { readonly device: DeviceNumber } & Pick<
    LoopStatus,
    'inode' | 'offsetBytes' | 'readOnly'
  >;
}

/** The first word is the version of this format. */
const NAME = /^loop1-(\d+)-/;

/** `loop1-NUMBER-DISKSEQ-MAJOR.MINOR-INODE-OFFSET-MODE`: what a manager allows in a name. */
export function stashName({ number, diskSequence, status }: StashedLoop): string {
  const { device, inode, offsetBytes, readOnly } = status;
  const file = `${device.major}.${device.minor}-${inode}`;
  return `loop1-${number}-${diskSequence}-${file}-${offsetBytes}-${readOnly ? 'r' : 'w'}`;
}

/** The number of the loop device that a name is of; undefined when it is of none. */
export function stashedNumber(name: string): number | undefined {
  const digits = NAME.exec(name)?.[1];
  return digits === undefined ? undefined : Number(digits);
}

/**
 * The manager as a stash. One that cannot keep more is no reason to refuse a disk: AUTOCLEAR and the
 * backend's own reference hold the device as well.
 */
export function managerStash(
  manager: ServiceManager,
  onFault: (sentence: string) => void,
): LoopStash {
  const attempt = (act: () => void): void => {
    try {
      act();
    } catch (thrown) {
      onFault(`the service manager was not told of a loop device: ${sentenceOf(thrown)}`);
    }
  };
  return {
    keep: (name, fd) => attempt(() => manager.keep(name, fd)),
    drop: (name) => attempt(() => manager.drop(name)),
  };
}
