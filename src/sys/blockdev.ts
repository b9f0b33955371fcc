/** What a block device says of itself: linux/fs.h's BLK ioctls. */
import { struct, u32le, u64le } from '../base/struct.ts';
import { ioctl } from './ffi.ts';

// linux/fs.h, x86_64 encodings
const BLKROGET = 0x125e;
const BLKSSZGET = 0x1268;
const BLKDISCARD = 0x1277;
const BLKPBSZGET = 0x127b;
const BLKGETSIZE64 = 0x80081272;
const BLKGETDISKSEQ = 0x80081280;

const Word = struct(4, { value: u32le });
const Wide = struct(8, { value: u64le });
const Range = struct(16, { at: u64le, lengthBytes: u64le });

function word(fd: number, request: number): number {
  const raw = new Uint8Array(Word.size);
  ioctl(fd, request, raw);
  return Word.get(raw).value;
}

function wide(fd: number, request: number): number {
  const raw = new Uint8Array(Wide.size);
  ioctl(fd, request, raw);
  return Wide.get(raw).value;
}

/** Size in bytes. */
export function deviceSizeBytes(fd: number): number {
  return wide(fd, BLKGETSIZE64);
}

/** The kernel's serial number of this binding of the device: a reused number has another one. */
export function diskSequence(fd: number): number {
  return wide(fd, BLKGETDISKSEQ);
}

/** Logical and physical sector size in bytes. */
export function sectorBytes(fd: number): { logical: number; physical: number } {
  return { logical: word(fd, BLKSSZGET), physical: word(fd, BLKPBSZGET) };
}

/** True when the device refuses writes. */
export function isReadOnlyDevice(fd: number): boolean {
  return word(fd, BLKROGET) !== 0;
}

/** Tells the device that a range is not needed any more; what it then reads as, it decides. */
export function discardRange(fd: number, at: number, lengthBytes: number): void {
  ioctl(fd, BLKDISCARD, Range.make({ at, lengthBytes }));
}
