/** The kernel's nbd devices, by generic netlink: linux/nbd-netlink.h. Each command is one function. */
import {
  nestedAttribute,
  type NetlinkFamily,
  type NetlinkMessage,
  openNetlinkFamily,
  textAttribute,
  u32Attribute,
  u32Of,
  u64Attribute,
} from './netlink.ts';

export const NBD_MAJOR = 43;

// linux/nbd-netlink.h
export const NBD_FAMILY = 'nbd';
const CONNECT = 1;
const DISCONNECT = 2;
const RECONFIGURE = 3;
const Attribute = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  timeout: 4,
  serverFlags: 5,
  clientFlags: 6,
  sockets: 7,
  deadConnTimeout: 8,
  backendIdentifier: 10,
} as const;
const SOCK_ITEM = 1;
const SOCK_FD = 1;
// linux/nbd.h: NBD_CFLAG_DISCONNECT_ON_CLOSE
const DISCONNECT_ON_CLOSE = 2;

export interface NbdSetup {
  /** A connected stream socket on which the server expects requests; the kernel keeps its own hold. */
  readonly socketFd: number;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  /** The server's transmission flags, as its handshake told them. */
  readonly serverFlags: number;
  /** What is asked for while no server is connected waits so long before it fails. */
  readonly deadConnSeconds: number;
  /** Names the server: only who says the same may change the device. */
  readonly identifier: string;
}

/** The message that gives an unused device to a server; which, the kernel says. */
export function connectMessage(setup: NbdSetup): NetlinkMessage {
  return {
    command: CONNECT,
    attributes: [
      u64Attribute(Attribute.sizeBytes, setup.sizeBytes),
      u64Attribute(Attribute.blockSizeBytes, setup.blockSizeBytes),
      // With a time here, a request that takes longer ends the connection.
      u64Attribute(Attribute.timeout, 0),
      u64Attribute(Attribute.deadConnTimeout, setup.deadConnSeconds),
      u64Attribute(Attribute.serverFlags, setup.serverFlags),
      socketAttribute(setup.socketFd),
      textAttribute(Attribute.backendIdentifier, setup.identifier),
    ],
  };
}

export interface NbdChange {
  readonly index: number;
  readonly identifier: string;
  /** In the place of a connection that is dead. */
  readonly socketFd?: number | undefined;
  readonly sizeBytes?: number | undefined;
  /** The last close of the device disconnects it, as long as nobody says otherwise. */
  readonly disconnectOnClose?: boolean | undefined;
}

/** NBD_CMD_RECONFIGURE: a new connection, size or flag for a device that is in use. */
export function reconfigureMessage(change: NbdChange): NetlinkMessage {
  const { index, identifier, socketFd, sizeBytes, disconnectOnClose } = change;
  const attributes = [
    u32Attribute(Attribute.index, index),
    textAttribute(Attribute.backendIdentifier, identifier),
  ];
  if (sizeBytes !== undefined) attributes.push(u64Attribute(Attribute.sizeBytes, sizeBytes));
  if (disconnectOnClose !== undefined) {
    const flags = disconnectOnClose ? DISCONNECT_ON_CLOSE : 0;
    attributes.push(u64Attribute(Attribute.clientFlags, flags));
  }
  if (socketFd !== undefined) attributes.push(socketAttribute(socketFd));
  return { command: RECONFIGURE, attributes };
}

/** NBD_CMD_DISCONNECT: the device is free when its last user has closed it. */
export function disconnectMessage(index: number): NetlinkMessage {
  return { command: DISCONNECT, attributes: [u32Attribute(Attribute.index, index)] };
}

function socketAttribute(socketFd: number): ReturnType<typeof nestedAttribute> {
  const item = nestedAttribute(SOCK_ITEM, u32Attribute(SOCK_FD, socketFd));
  return nestedAttribute(Attribute.sockets, item);
}

/** @throws ErrnoError ENOENT when the nbd module is not loaded */
export function openNbdFamily(): NetlinkFamily {
  return openNetlinkFamily(NBD_FAMILY);
}

/** @returns the device's number. @throws ErrnoError */
export function connectNbd(family: NetlinkFamily, setup: NbdSetup): number {
  const index = u32Of(family.ask(connectMessage(setup)), Attribute.index);
  if (index === undefined) throw new Error('the kernel does not say which nbd device it is');
  return index;
}

/** @throws ErrnoError ENOSPC when no connection of the device is dead; EINVAL when it is not that one */
export function reconfigureNbd(family: NetlinkFamily, change: NbdChange): void {
  family.ask(reconfigureMessage(change));
}

/** What is under way on the device fails. @throws ErrnoError EINVAL when it has no server */
export function disconnectNbd(family: NetlinkFamily, index: number): void {
  family.ask(disconnectMessage(index));
}

/** The path of nbd device `index`. */
export function nbdPath(index: number): string {
  return `/dev/nbd${index}`;
}
