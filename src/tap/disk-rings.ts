/** The rings of one disk's guest, one for each queue: connected, and disconnected, all together. */
import { Failure } from '../base/failure.ts';
import { type Abi, abiOf, entriesOf, MOST_RING_PAGES } from '../ring/blkif.ts';
import { recordBytes } from '../ring/record.ts';
import type { ServedDisk } from '../ring/request-work.ts';
import type { Mapping } from '../sys/memory.ts';
import type { ConnectOrder, DiskName } from './orders.ts';
import { openRecord, removeRecords } from './records.ts';
import type { RingLoop, ServedRing } from './ring-loop.ts';

export interface DiskRings {
  /** Why they are not served any more. */
  readonly fault: string | undefined;
  /** Ends when nothing of them is under way and they are unmapped. */
  close(): Promise<void>;
}

export interface DiskRingsOptions {
  readonly loop: RingLoop;
  readonly recordsFolder: string;
}

/** @throws Failure invalid | gone | in-use; then none of them is connected */
export function connectRings(
  { loop, recordsFolder }: DiskRingsOptions,
  name: DiskName,
  disk: ServedDisk,
  order: ConnectOrder,
): DiskRings {
  const abi = requireAbi(name, order);
  if (!order.takeUp) removeRecords(recordsFolder, name);
  let fault: string | undefined;
  const rings: { readonly served: ServedRing; readonly record: Mapping }[] = [];
  const close = async (): Promise<void> => {
    const closings = rings.map(({ served }) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      served.close(resolve);
      return promise;
    });
    await Promise.all(closings);
    for (const { record } of rings.splice(0)) record[Symbol.dispose]();
  };
  const onHostile = (): void => {
    fault = 'the guest claims more requests than its ring holds';
    // The disk is not served in part.
    for (const { served } of rings) served.close(() => {});
  };
  try {
    for (const { references, port } of order.queues) {
      const { domid, takeUp, persistent } = order;
      const ring = { domid, references, port };
      const sizeBytes = recordBytes(entriesOf(abi, references.length));
      using stack = new DisposableStack();
      const record = stack.use(openRecord(recordsFolder, name, ring, takeUp, sizeBytes));
      const options = { ...ring, abi, persistent, disk, record: record.memory, takeUp, onHostile };
      rings.push({ served: loop.add(options), record });
      stack.move();
    }
  } catch (thrown) {
    void close();
    throw thrown;
  }
  return {
    get fault() {
      return fault;
    },
    close,
  };
}

function requireAbi(name: DiskName, { protocol, queues }: ConnectOrder): Abi {
  const abi = abiOf(protocol);
  if (abi === undefined) {
    throw new Failure('invalid', `the frontend of ${name} speaks ${protocol}, which is no ABI`);
  }
  const isRing = (pages: number): boolean =>
    pages > 0 && pages <= MOST_RING_PAGES && Number.isInteger(Math.log2(pages));
  const wrong = queues.find(({ references }) => !isRing(references.length));
  if (wrong === undefined) return abi;
  const most = `a power of two, ${MOST_RING_PAGES} at most`;
  const { length } = wrong.references;
  throw new Failure('invalid', `the ring of ${name} has ${length} pages — ${most}`);
}
