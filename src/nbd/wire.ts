/** NBD as it goes over the wire: numbers and layouts of the NBD project's proto.md, all big-endian. */

/** «NBDMAGIC» and «IHAVEOPT», as pairs of 32 bits. */
export const INIT_MAGIC = [0x4e42444d, 0x41474943] as const;
export const OPTION_MAGIC = [0x49484156, 0x454f5054] as const;
export const OPTION_REPLY_MAGIC = [0x0003e889, 0x045565a9] as const;

/** What the server says of itself, and the client answers with. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** magic u64, option u32, length u32; then `length` bytes. */
export const OPTION_HEADER_BYTES = 16;
/** magic u64, option u32, type u32, length u32; then `length` bytes. */
export const OPTION_REPLY_HEADER_BYTES = 20;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  tooBig: 0x80000009,
  extendedHeadersRequired: 0x8000000a,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** What an export can do. */
export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  flush: 1 << 2,
  fua: 1 << 3,
  trim: 1 << 5,
  writeZeroes: 1 << 6,
  dontFragment: 1 << 7,
  multiConn: 1 << 8,
  resize: 1 << 9,
  cache: 1 << 10,
  fastZero: 1 << 11,
} as const;

export const REQUEST_MAGIC = 0x25609513;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
/** magic u32, flags u16, type u16, cookie u64, offset u64, length u32 or, extended, u64. */
export const REQUEST_BYTES = 28;
export const EXTENDED_REQUEST_BYTES = 32;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
  resize: 8,
} as const;

export const CommandFlag = {
  fua: 1,
  noHole: 2,
  dontFragment: 4,
  requestOne: 8,
  fastZero: 16,
  payloadLength: 32,
} as const;

/** magic u32, error u32, cookie u64; then the bytes that were read. */
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const SIMPLE_REPLY_BYTES = 16;
/** magic u32, flags u16, type u16, cookie u64, length u32; then `length` bytes. */
export const CHUNK_MAGIC = 0x668e33ef;
export const CHUNK_BYTES = 20;
/** magic u32, flags u16, type u16, cookie u64, offset u64, length u64; then `length` bytes. */
export const EXTENDED_CHUNK_MAGIC = 0x6e8a278c;
export const EXTENDED_CHUNK_BYTES = 32;

/** The last chunk of a reply. */
export const CHUNK_DONE = 1;

export const Chunk = {
  none: 0,
  /** offset u64, then bytes. */
  data: 1,
  /** offset u64, length u32. */
  hole: 2,
  /** context u32, then descriptors of length u32, status u32. */
  blockStatus: 5,
  /** context u32, count u32, then descriptors of length u64, status u64. */
  blockStatusExtended: 6,
  /** error u32, message length u16, message. */
  error: 0x8001,
  /** The same, then offset u64. */
  errorOffset: 0x8002,
} as const;

/** The metadata contexts that are offered: where space is taken; and, with a name behind it, a bitmap. */
export const ALLOCATION_CONTEXT = 'base:allocation';
export const Allocation = { hole: 1, zero: 2 } as const;
export const BITMAP_CONTEXT = 'qemu:dirty-bitmap:';
export const DIRTY = 1;

/** The errors that a reply can carry; they have Linux's numbers. */
export const NbdError = {
  perm: 1,
  io: 5,
  noMemory: 12,
  invalid: 22,
  noSpace: 28,
  overflow: 75,
  notSupported: 95,
  shutdown: 108,
} as const;

/** The error of a reply for Linux's errno: what the protocol has no number for is an I/O error. */
export function errorOf(errno: number): number {
  switch (errno) {
    case 0:
    case NbdError.perm:
    case NbdError.noMemory:
    case NbdError.invalid:
    case NbdError.noSpace:
    case NbdError.overflow:
    case NbdError.notSupported:
      return errno;
    // EACCES, EROFS
    case 13:
    case 30:
      return NbdError.perm;
    // EFBIG, EDQUOT
    case 27:
    case 122:
      return NbdError.noSpace;
    default:
      return NbdError.io;
  }
}

/** Bytes that one request may carry or ask for. */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;
/** Names and descriptions, as the protocol bounds them. */
export const MAX_NAME_BYTES = 4096;
