/** A frontend's side of a ring, written from the protocol: what a guest's driver does. */
import { type Abi, entriesOf, RingAt } from '../../src/ring/blkif.ts';

export interface GuestRing {
  /** Requests that were pushed and not answered yet; -1 when the ring is full. */
  push(write: (slot: DataView) => void): void;
  readonly free: number;
  /** Shows the backend what was pushed. @returns whether it asked to be told */
  publish(): boolean;
  /** The next response, or undefined. */
  response():
    | { readonly id: bigint; readonly operation: number; readonly status: number }
    | undefined;
  /** Asks to be told of the next response. @returns whether one came meanwhile */
  sleep(): boolean;
}

/** A fresh ring in that memory, as a frontend makes it. */
export function guestRing(abi: Abi, memory: ArrayBuffer): GuestRing {
  const view = new DataView(memory);
  const entries = entriesOf(abi, memory.byteLength / 4096);
  const words = new Int32Array(memory, 0, 16);
  Atomics.store(words, RingAt.requestEvent / 4, 1);
  Atomics.store(words, RingAt.responseEvent / 4, 1);
  let produced = 0;
  let shown = 0;
  let consumed = 0;
  const slot = (index: number): DataView =>
    new DataView(memory, RingAt.entries + (index & (entries - 1)) * abi.entryBytes, abi.entryBytes);
  return {
    get free() {
      return entries - ((produced - consumed) | 0);
    },
    push(write) {
      write(slot(produced));
      produced = (produced + 1) | 0;
    },
    publish() {
      const before = shown;
      shown = produced;
      Atomics.store(words, RingAt.requestsProduced / 4, produced);
      const wanted = Atomics.load(words, RingAt.requestEvent / 4);
      return (produced - wanted) >>> 0 < (produced - before) >>> 0;
    },
    response() {
      if (Atomics.load(words, RingAt.responsesProduced / 4) === consumed) return undefined;
      const at = RingAt.entries + (consumed & (entries - 1)) * abi.entryBytes;
      consumed = (consumed + 1) | 0;
      const { operation, status } = abi.response;
      return {
        id: view.getBigUint64(at, true),
        operation: view.getUint8(at + operation),
        status: view.getInt16(at + status, true),
      };
    },
    sleep() {
      Atomics.store(words, RingAt.responseEvent / 4, consumed + 1);
      return Atomics.load(words, RingAt.responsesProduced / 4) !== consumed;
    },
  };
}
