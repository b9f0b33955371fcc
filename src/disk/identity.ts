/**
 * What «the same disk» means: files by file system and inode, devices by number, never the text of
 * a path. A member is one file or device that a disk is made of, with all that it stands on.
 */

/** Equal keys mean the same bytes: `file:254:0/8656`, `device:7:3`. */
export type Identity = string;

/** How a holder uses it: `w!` writes and lets others write, as cluster file systems do. */
export type Mode = 'r' | 'w' | 'w!';

/** One file or device of a disk; an image with parents has several, the parents read-only. */
export interface Member {
  readonly identity: Identity;
  /** Itself and everything below it: a loop's file, a partition's disk, a mapped device's parts. */
  readonly stack: readonly Identity[];
  readonly mode: Mode;
  /** As the holder named it; for sentences, never for comparing. */
  readonly path: string;
}

interface Numbers {
  readonly major: number;
  readonly minor: number;
}

/** The identity of a file: `device` is its file system's. */
export function fileIdentity(device: Numbers, inode: bigint): Identity {
  return `file:${device.major}:${device.minor}/${inode}`;
}

/** The identity of a block device. */
export function deviceIdentity(device: Numbers): Identity {
  return `device:${device.major}:${device.minor}`;
}
