/**
 * What transports ask of the engine: bytes of images, into and out of memory that the kernel can be
 * told the address of. An engine belongs to one thread and allocates nothing per request.
 */
import type { Image } from './image.ts';

/** Memory that stays where it is: a view and its address. */
export interface FixedMemory {
  readonly view: Uint8Array;
  readonly address: number;
}

/** What a call answers when it has begun something that ends later: then `onDone` is told. */
export const PENDING = -1;

/**
 * Each call answers 0 when all of it is done, an errno number when it failed, or PENDING. Requests
 * that are pending at the same time may take effect in any order; a flush covers what was answered
 * before it was asked for.
 */
export interface Engine extends Disposable {
  /** Bytes of the disk to `memory`, from its byte `offset` on. */
  read(
    image: Image,
    at: number,
    lengthBytes: number,
    memory: FixedMemory,
    offset: number,
    tag: number,
  ): number;
  /** @param durable the bytes are on stable storage before it is done (FUA) */
  write(
    image: Image,
    at: number,
    lengthBytes: number,
    memory: FixedMemory,
    offset: number,
    durable: boolean,
    tag: number,
  ): number;
  /** The range reads as zeros afterwards. */
  zero(
    image: Image,
    at: number,
    lengthBytes: number,
    unmap: boolean,
    durable: boolean,
    tag: number,
  ): number;
  /** The range is not needed any more. */
  discard(image: Image, at: number, lengthBytes: number, durable: boolean, tag: number): number;
  flush(image: Image, tag: number): number;
  /** Gives the disk another size. */
  resize(image: Image, sizeBytes: number, tag: number): number;
  /**
   * Ends in order once nothing else is pending on the image: flushed, marked as closed, and its
   * files closed. Nothing may be asked of the image afterwards.
   */
  close(image: Image, tag: number): number;
  /**
   * Readable when something pending may have ended, and at times when nothing is pending: to be
   * waited for by its edges. Undefined when nothing ever is pending.
   */
  readonly fd: number | undefined;
  /** Hands what was begun to the kernel: once, after a batch of calls. */
  submit(): void;
  /** Tells `onDone(tag, errno)` of everything that has ended; waits for nothing. */
  reap(onDone: (tag: number, errno: number) => void): void;
  /** How many requests are pending. */
  readonly pending: number;
}
