/**
 * Copies for guests that grant the same pages for ever (`feature-persistent`): each page is mapped
 * when it is first met, and stays mapped until the ring goes. What cannot be mapped is copied as any
 * other guest's pages are.
 */
import { Failure } from '../base/failure.ts';
import { raw } from '../sys/ffi.ts';
import type { FixedMemory, GrantCopier, MappedGrants } from './hypervisor.ts';
import { PAGE_BYTES } from './blkif.ts';

export interface PersistentOptions {
  /** @throws Failure gone when one of them is not granted for writing */
  readonly map: (references: readonly number[]) => MappedGrants;
  readonly memory: FixedMemory;
  /** Copies what is not mapped. */
  readonly copier: GrantCopier;
  /** Pages that are mapped for this ring; of a guest that grants more, the later are copied. */
  readonly mostPages: number;
}

/** What a single page ring can have under way, once over. */
export const MOST_PERSISTENT_PAGES = 1056;

/** A copier that keeps pages mapped which the guest grants again and again. */
export function persistentCopier(options: PersistentOptions): GrantCopier {
  const { memory, copier: other } = options;
  const { capacity } = other;
  const pages = createPages(options);
  const references = new Float64Array(capacity);
  const toGuest = new Uint8Array(capacity);
  const pageOffsets = new Uint16Array(capacity);
  const offsets = new Float64Array(capacity);
  const lengths = new Uint16Array(capacity);
  const failed = new Uint8Array(capacity);
  /** Which of ours the other one's copies are. */
  const handed = new Uint16Array(capacity);

  function copyMapped(i: number, page: number): void {
    const granted = page + (pageOffsets[i] ?? 0);
    const own = memory.address + (offsets[i] ?? 0);
    if (toGuest[i] === 1) raw.memcpy(granted, own, lengths[i] ?? 0);
    else raw.memcpy(own, granted, lengths[i] ?? 0);
    failed[i] = 0;
  }

  function handOver(i: number): void {
    const direction = toGuest[i] === 1 ? 'to guest' : 'from guest';
    const [reference = 0, pageOffset = 0] = [references[i], pageOffsets[i]];
    const number = other.add(direction, reference, pageOffset, offsets[i] ?? 0, lengths[i] ?? 0);
    handed[number] = i;
  }

  const copier: GrantCopier = {
    capacity,
    failed,
    queued: 0,
    add(direction, reference, pageOffset, memoryOffset, lengthBytes) {
      const number = copier.queued;
      toGuest[number] = direction === 'to guest' ? 1 : 0;
      references[number] = reference;
      pageOffsets[number] = pageOffset;
      offsets[number] = memoryOffset;
      lengths[number] = lengthBytes;
      copier.queued = number + 1;
      return number;
    },
    run() {
      const count = copier.queued;
      copier.queued = 0;
      pages.meet(references, count);
      for (let i = 0; i < count; i++) {
        const page = pages.addressOf(references[i] ?? 0);
        if (page === 0) handOver(i);
        else copyMapped(i, page);
      }
      const left = other.queued;
      if (left === 0 || other.run()) {
        for (let i = 0; i < left; i++) failed[handed[i] ?? 0] = 0;
        return true;
      }
      for (let i = 0; i < left; i++) failed[handed[i] ?? 0] = other.failed[i] ?? 1;
      return false;
    },
    [Symbol.dispose]() {
      pages[Symbol.dispose]();
      other[Symbol.dispose]();
    },
  };
  return copier;
}

interface Pages extends Disposable {
  /** Maps those of the first `count` that are met for the first time, all in one call. */
  meet(references: Float64Array, count: number): void;
  /** Where a page is mapped; 0 when it is not. */
  addressOf(reference: number): number;
}

function createPages({ map, mostPages }: PersistentOptions): Pages {
  const groups: MappedGrants[] = [];
  /** 0 for one that cannot be mapped. */
  const addresses = new Map<number, number>();
  const remember = (fresh: readonly number[]): void => {
    try {
      const group = map(fresh);
      groups.push(group);
      for (const [i, reference] of fresh.entries()) {
        addresses.set(reference, group.address + i * PAGE_BYTES);
      }
    } catch (thrown) {
      if (!(thrown instanceof Failure)) throw thrown;
      for (const reference of fresh) addresses.set(reference, 0);
    }
  };
  return {
    meet(references, count) {
      let fresh: number[] | undefined;
      for (let i = 0; i < count; i++) {
        const reference = references[i] ?? 0;
        if (addresses.has(reference) || fresh?.includes(reference) === true) continue;
        fresh ??= [];
        if (addresses.size + fresh.length === mostPages) break;
        fresh.push(reference);
      }
      if (fresh !== undefined && fresh.length > 0) remember(fresh);
    },
    addressOf: (reference) => addresses.get(reference) ?? 0,
    [Symbol.dispose]() {
      for (const group of groups) group[Symbol.dispose]();
    },
  };
}
