/**
 * A place where bytes can be: a file, a block device, memory. Every call is synchronous; what may
 * wait for a disk and must not block others goes through the engine, by `fd`.
 */

export interface Bytes extends Disposable {
  /** For sentences, and for what is named relative to it. */
  readonly path: string;
  /** The open file for the engine's own calls; undefined where only these methods may move bytes. */
  readonly fd: number | undefined;
  /** The open file where `fd` is undefined: to ask which one it is, never to move bytes by. */
  readonly openFd?: number | undefined;
  readonly writable: boolean;
  /**
   * Offsets, lengths and memory addresses of calls by `fd` must be multiples of this: 1, or a sector
   * with direct I/O. These methods go through the page cache then: never beside writes by `fd`.
   */
  readonly alignmentBytes: number;
  /** Size in bytes, as it is now. */
  sizeBytes(): number;
  /**
   * Fills `into` from byte `at` on.
   * @returns bytes read: fewer than asked for only where the file ends
   * @throws Failure io
   */
  read(into: Uint8Array, at: number): number;
  /**
   * Writes all of `from`; a file grows as it must.
   * @throws Failure exhausted | io
   */
  write(from: Uint8Array, at: number): void;
  /**
   * Makes the range read as zeros without changing the size; what is past the end is left out.
   * @param unmap gives the space back where that can be done, else keeps it allocated
   * @throws Failure exhausted | io
   */
  zero(at: number, lengthBytes: number, unmap: boolean): void;
  /** Gives the space back where that can be done; what is read there afterwards is undefined or zero. */
  discard(at: number, lengthBytes: number): void;
  /** Cuts or extends a file; a device stays as it is. @throws Failure exhausted | io */
  resize(sizeBytes: number): void;
  /** Returns when everything written before is on stable storage. @throws Failure io */
  flush(): void;
  /**
   * The first range at or after `at` that is stored; undefined when there is none. Where holes
   * cannot be known the whole rest is.
   */
  nextStored(at: number): { readonly at: number; readonly end: number } | undefined;
}
