/** Pages that other domains grant, through /dev/xen/gntdev (Linux' xen/gntdev.h). */
import { i32le, struct, u16le, u32le, u64le } from '../base/struct.ts';
import { type Fd, O, openFd } from './fd.ts';
import { ioctl } from './ffi.ts';
import { mapShared, type Mapping } from './memory.ts';

const MAP_GRANT_REF = 0x184700;
const UNMAP_GRANT_REF = 0x104701;
const GRANT_COPY = 0x104708;
const PAGE_BYTES = 4096;

const MapHead = struct(16, { count: u32le, pad: u32le, index: u64le });
const Reference = struct(8, { domid: u32le, reference: u32le });
const Unmap = struct(16, { index: u64le, count: u32le, pad: u32le });
/** The head of a copy: how many segments, and where they are. */
const Copy = struct(16, { count: u32le, pad: u32le, segments: u64le });

/** One copy: either side is an address here, or a reference, its domain and an offset in its page. */
export const CopySegment = struct(24, {
  source: u64le,
  destination: u64le,
  lengthBytes: u16le,
  flags: u16le,
  status: i32le,
});
/** Where on a granted side the parts are: u32 reference, u16 offset, u16 domain. */
export const GrantedSide = { reference: 0, offset: 4, domid: 6 } as const;
export const CopyFlag = { sourceIsGrant: 1, destinationIsGrant: 2 } as const;
/** Of a copy's status, a 16-bit number: done; the page is paged out, try again. */
export const CopyStatus = { ok: 0, again: -12 } as const;

/** Opens the device. @throws ErrnoError */
export function openGrants(path = '/dev/xen/gntdev'): Fd {
  return openFd(path, O.RDWR);
}

/**
 * Maps granted pages one after another, writable.
 * @throws ErrnoError when one of them is not granted
 */
export function mapGrants(fd: number, domid: number, references: readonly number[]): Mapping {
  const request = new Uint8Array(MapHead.size + references.length * Reference.size);
  MapHead.put(request, { count: references.length });
  for (const [i, reference] of references.entries()) {
    Reference.put(request, { domid, reference }, MapHead.size + i * Reference.size);
  }
  ioctl(fd, MAP_GRANT_REF, request);
  const { index } = MapHead.get(request);
  const count = references.length;
  const giveBack = (): void => void ioctl(fd, UNMAP_GRANT_REF, Unmap.make({ index, count }));
  let mapping: Mapping;
  try {
    mapping = mapShared(fd, index, count * PAGE_BYTES);
  } catch (thrown) {
    giveBack();
    throw thrown;
  }
  let mapped = true;
  return {
    address: mapping.address,
    lengthBytes: mapping.lengthBytes,
    get memory() {
      return mapping.memory;
    },
    [Symbol.dispose]() {
      if (!mapped) return;
      mapped = false;
      mapping[Symbol.dispose]();
      giveBack();
    },
  };
}

/** Does `count` copies of `CopySegment`s at that address; each gets a status. @throws ErrnoError */
export function copyGrants(fd: number, segmentsAddress: number, count: number): void {
  Copy.put(copyRequest, { count, segments: segmentsAddress });
  ioctl(fd, GRANT_COPY, copyRequest);
}
const copyRequest = Copy.make({});
