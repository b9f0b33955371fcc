/**
 * Asking a family of generic netlink: linux/netlink.h, linux/genetlink.h. The kernel answers within
 * the call that asks, so nothing here waits.
 */
import { constants } from 'node:os';
import { i32le, struct, u16le, u32le, u8 } from '../base/struct.ts';
import { type Fd, ownFd } from './fd.ts';
import { ErrnoError, read, socket, write } from './ffi.ts';

// linux/netlink.h, linux/genetlink.h
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_GENERIC = 16;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLMSG_ERROR = 2;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;
/** The family that knows the numbers of the others. */
export const GENL_ID_CTRL = 16;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;

// struct nlmsghdr, then struct genlmsghdr
const Header = struct(20, {
  length: u32le,
  type: u16le,
  flags: u16le,
  sequence: u32le,
  port: u32le,
  command: u8,
  version: u8,
  reserved: u16le,
});
const NLMSG_HEADER_BYTES = 16;
// struct nlmsgerr, where the request's own header follows
const ErrorBody = struct(4, { error: i32le });
const Attribute = struct(4, { length: u16le, type: u16le });
const REPLY_BYTES = 64 * 1024;

/** One attribute: its number and its payload. */
export interface NetlinkAttribute {
  readonly type: number;
  readonly payload: Uint8Array;
}

/** An attribute that is a 32-bit number. */
export function u32Attribute(type: number, value: number): NetlinkAttribute {
  return { type, payload: struct(4, { value: u32le }).make({ value }) };
}

/** An attribute that is a 64-bit number, below 2^53. */
export function u64Attribute(type: number, value: number): NetlinkAttribute {
  const payload = new Uint8Array(8);
  new DataView(payload.buffer).setBigUint64(0, BigInt(value), true);
  return { type, payload };
}

/** Text with its NUL. */
export function textAttribute(type: number, text: string): NetlinkAttribute {
  return { type, payload: Buffer.from(`${text}\0`) };
}

/** An attribute made of attributes. */
export function nestedAttribute(
  type: number,
  ...inner: readonly NetlinkAttribute[]
): NetlinkAttribute {
  return { type: type | NLA_F_NESTED, payload: encodeAttributes(inner) };
}

/** Attributes one after the other, each from a multiple of four bytes on. */
export function encodeAttributes(attributes: readonly NetlinkAttribute[]): Uint8Array {
  const parts = attributes.map(({ type, payload }) => {
    const length = Attribute.size + payload.length;
    const bytes = new Uint8Array(align4(length));
    Attribute.put(bytes, { length, type });
    bytes.set(payload, Attribute.size);
    return bytes;
  });
  return Buffer.concat(parts);
}

/** The attributes in `bytes`, up to one that is cut short. */
export function decodeAttributes(bytes: Uint8Array): NetlinkAttribute[] {
  const found: NetlinkAttribute[] = [];
  for (let at = 0; at + Attribute.size <= bytes.length;) {
    const { length, type } = Attribute.get(bytes, at);
    if (length < Attribute.size || at + length > bytes.length) break;
    const payload = bytes.subarray(at + Attribute.size, at + length);
    found.push({ type: type & NLA_TYPE_MASK, payload });
    at += align4(length);
  }
  return found;
}

/** The number in the first attribute of that type; undefined when there is none. */
export function u32Of(attributes: readonly NetlinkAttribute[], type: number): number | undefined {
  const found = attributes.find((each) => each.type === type);
  return found === undefined ? undefined : Buffer.from(found.payload).readUInt32LE();
}

/** One message to a family, as it goes to the kernel. */
export function encodeMessage(
  family: number,
  message: NetlinkMessage,
  sequence: number,
): Uint8Array {
  const body = encodeAttributes(message.attributes);
  const header = Header.make({
    length: Header.size + body.length,
    type: family,
    flags: NLM_F_REQUEST | NLM_F_ACK,
    sequence,
    command: message.command,
    version: 1,
  });
  return Buffer.concat([header, body]);
}

export interface NetlinkMessage {
  readonly command: number;
  readonly attributes: readonly NetlinkAttribute[];
}

/** Asks which number the family of that name has. */
export function familyMessage(name: string): NetlinkMessage {
  const attributes = [textAttribute(CTRL_ATTR_FAMILY_NAME, name)];
  return { command: CTRL_CMD_GETFAMILY, attributes };
}

export interface NetlinkFamily extends Disposable {
  /** @returns the attributes of what the kernel answered. @throws ErrnoError of the command */
  ask(message: NetlinkMessage): NetlinkAttribute[];
}

/**
 * Opens a socket to the family of that name.
 * @throws ErrnoError ENOENT when the kernel has no such family
 */
export function openNetlinkFamily(name: string): NetlinkFamily {
  using stack = new DisposableStack();
  const fd = stack.use(ownFd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC)));
  const state = { sequence: 0 };
  const found = ask(fd, state, name, GENL_ID_CTRL, familyMessage(name));
  const id = found.find(({ type }) => type === CTRL_ATTR_FAMILY_ID);
  if (id === undefined) throw new ErrnoError(name, constants.errno.ENOENT);
  const family = Buffer.from(id.payload).readUInt16LE();
  stack.move();
  return {
    ask: (message) => ask(fd, state, name, family, message),
    [Symbol.dispose]: () => fd.close(),
  };
}

function ask(
  fd: Fd,
  state: { sequence: number },
  name: string,
  family: number,
  message: NetlinkMessage,
): NetlinkAttribute[] {
  state.sequence += 1;
  const { sequence } = state;
  const request = encodeMessage(family, message, sequence);
  write(fd.number, request, request.length);
  const answered: NetlinkAttribute[] = [];
  const buffer = new Uint8Array(REPLY_BYTES);
  for (;;) {
    const count = read(fd.number, buffer, buffer.length);
    for (let at = 0; at + NLMSG_HEADER_BYTES <= count;) {
      const header = Header.get(buffer, at);
      const end = at + header.length;
      if (header.sequence === sequence && header.type === NLMSG_ERROR) {
        const { error } = ErrorBody.get(buffer, at + NLMSG_HEADER_BYTES);
        if (error === 0) return answered;
        throw new ErrnoError(`${name} command ${message.command}`, -error);
      }
      if (header.sequence === sequence) {
        answered.push(...decodeAttributes(buffer.slice(at + Header.size, end)));
      }
      at += align4(header.length);
    }
  }
}

function align4(count: number): number {
  return (count + 3) & ~3;
}
