/** Shared memory: memfd and mmap, seen as typed arrays for as long as the mapping lives. */
import { type Fd, ownFd } from './fd.ts';
import { memfdCreate, mmap, munmap, viewMemory } from './ffi.ts';

// asm-generic/mman.h
const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = 0x20;
const MFD_CLOEXEC = 1;

export interface Mapping extends Disposable {
  readonly address: number;
  readonly lengthBytes: number;
  /**
   * The memory itself. It is detached when the mapping is disposed, so that a view kept too long
   * reads as empty instead of ending the process.
   */
  readonly memory: ArrayBuffer;
}

/** Maps `lengthBytes` of `fd` from byte `at`, readable and writable, shared with its other users. */
export function mapShared(fd: number, at: number, lengthBytes: number): Mapping {
  return mapping(mmap(0, lengthBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at), lengthBytes);
}

/** Private zeroed memory, page-aligned: what O_DIRECT and message headers want. */
export function mapPrivate(lengthBytes: number): Mapping {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS;
  return mapping(mmap(0, lengthBytes, PROT_READ | PROT_WRITE, flags, -1, 0), lengthBytes);
}

/** Maps pieces of `fd`, each `pieceBytes` long, one after another as one range. */
export function mapPieces(fd: number, offsets: readonly number[], pieceBytes: number): Mapping {
  const whole = mapPrivate(offsets.length * pieceBytes);
  const protection = PROT_READ | PROT_WRITE;
  try {
    for (const [index, at] of offsets.entries()) {
      const address = whole.address + index * pieceBytes;
      mmap(address, pieceBytes, protection, MAP_SHARED | MAP_FIXED, fd, at);
    }
    return whole;
  } catch (thrown) {
    whole[Symbol.dispose]();
    throw thrown;
  }
}

function mapping(address: number, lengthBytes: number): Mapping {
  let memory = viewMemory(address, lengthBytes);
  let mapped = true;
  return {
    address,
    lengthBytes,
    get memory() {
      return memory;
    },
    [Symbol.dispose]() {
      if (!mapped) return;
      mapped = false;
      memory.transfer();
      memory = new ArrayBuffer(0);
      munmap(address, lengthBytes);
    },
  };
}

/** An anonymous file in memory; size it with ftruncate. `name` is only shown in /proc. */
export function createMemoryFile(name: string): Fd {
  return ownFd(memfdCreate(name, MFD_CLOEXEC));
}
