/**
 * Memory that the engine lends to requests whose own the kernel cannot use: unaligned for direct
 * I/O, or not theirs to see, as a compressed run is. Bounded; only what was once used takes room.
 */
import { mapPrivate, type Mapping } from '../sys/memory.ts';

const UNIT_BYTES = 1 << 16;
const UNITS = 1024;

export const ROOM_BYTES: number = UNITS * UNIT_BYTES;

export interface Room extends Disposable {
  readonly view: Uint8Array;
  /** Of the first byte of `view`. */
  readonly address: number;
  /** Where in `view` there are `lengthBytes` of page-aligned memory; -1 while there are not. */
  take(lengthBytes: number): number;
  /** Gives back what `take` answered. */
  give(at: number): void;
}

/** A room of which nothing is taken; its memory is mapped when it is first used. */
export function createRoom(): Room {
  let mapping: Mapping | undefined;
  let view = new Uint8Array(0);
  const isTaken = new Uint8Array(UNITS);
  const unitsAt = new Uint16Array(UNITS);
  const fits = (first: number, units: number): boolean => {
    for (let unit = first; unit < first + units; unit++) if (isTaken[unit] !== 0) return false;
    return true;
  };
  return {
    get view() {
      return view;
    },
    get address() {
      return mapping?.address ?? 0;
    },
    take(lengthBytes) {
      if (mapping === undefined) {
        mapping = mapPrivate(ROOM_BYTES);
        view = new Uint8Array(mapping.memory);
      }
      const units = Math.ceil(lengthBytes / UNIT_BYTES);
      for (let first = 0; first + units <= UNITS; first++) {
        if (!fits(first, units)) continue;
        isTaken.fill(1, first, first + units);
        unitsAt[first] = units;
        return first * UNIT_BYTES;
      }
      return -1;
    },
    give(at) {
      const first = at / UNIT_BYTES;
      isTaken.fill(0, first, first + (unitsAt[first] ?? 0));
    },
    [Symbol.dispose]() {
      mapping?.[Symbol.dispose]();
    },
  };
}
