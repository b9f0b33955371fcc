/**
 * The kernel's nbd devices as vbdkit uses them. A device is connected for one disk and disconnected
 * by its last close, vbdkit's own or blkback's: so what a crash leaves behind goes with its guest.
 */
import { execFile } from 'node:child_process';
import { open } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { sleep, within } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import type { ChosenExport } from '../nbd/client.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import { type Fd, O, ownFd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { connectNbd, disconnectNbd, nbdPath, openNbdFamily, reconfigureNbd } from '../sys/nbd.ts';
import type { NetlinkFamily } from '../sys/netlink.ts';
import { deviceIn, namesIn, textOf } from '../sys/sysfs.ts';
import { BUSY_LOOKS, LOOK_AGAIN_MS } from './busy.ts';

/** What a device is connected for. */
export interface NbdUse {
  /** The disk's name with the tap: who connects a device of that name again must say the same. */
  readonly name: string;
  readonly readOnly: boolean;
}

/** One device. Disposing it lets go of it: with nobody else having it open, it is free. */
export interface NbdDevice extends Disposable {
  readonly device: DeviceNumber;
  /** `/dev/nbd0` */
  readonly devicePath: string;
  readonly sizeBytes: number;
  /**
   * Opens it, unless it is open; from then on its last close disconnects it. While nobody serves it
   * this waits: the kernel, or another program, may have to read from it before anybody opens it.
   * @throws Failure in-use | gone | io
   */
  hold(): Promise<void>;
  /** Has another connection take the place of one that is dead; what was under way is asked there. */
  reconnect(served: ChosenExport): Promise<void>;
  /** The device is so large from now on. */
  resize(sizeBytes: number): Promise<void>;
  /** What is under way fails, and whatever is asked from now on. */
  sever(): Promise<void>;
}

export interface NbdKernel extends Disposable {
  /** Connects a device that nobody uses, and holds it. @throws Failure unavailable | denied | in-use | io | timeout */
  connect(served: ChosenExport, use: NbdUse): Promise<NbdDevice>;
  /** Finds a device that an earlier vbdd connected; it is held once it is served. @throws Failure gone */
  adopt(device: DeviceNumber, use: NbdUse): Promise<NbdDevice>;
  /** The names of those that some vbdd connected, and that are connected still. */
  names(): Promise<string[]>;
  /** Disconnects those of that name. */
  forget(name: string): Promise<void>;
}

/** Marks the devices that are ours. */
const PREFIX = 'vbdkit:';
const BLOCK_BYTES = 512;
/** A guest waits for a tap that is away, for as long as anybody might take to bring it back. */
const DEAD_CONNECTION_SECONDS = 7 * 86_400;
/** A request whose connection died is asked again on the next one after this time. */
const ASKED_AGAIN_MS = 5000;
/** Whoever serves it has just said that it does. */
const OPENED_WITHIN_MS = 30_000;

/**
 * The kernel's own, whose module is loaded when it is first needed.
 * @param sysBlock where sysfs has block devices
 * @param openFamily opens what the kernel is asked by; throws ErrnoError ENOENT without the module
 */
export function nbdKernel(sysBlock = '/sys/block', openFamily = openNbdFamily): NbdKernel {
  let family: NetlinkFamily | undefined;
  const opened = async (): Promise<NetlinkFamily> => {
    family ??= tryOpen(openFamily) ?? (await loadModule(openFamily));
    return family;
  };
  const named = (): { index: number; name: string }[] => namedDevices(sysBlock);
  return {
    async connect(served, use) {
      const to = await opened();
      const index = withSentence('connect', () => connectNbd(to, setupOf(served, use)));
      try {
        await writeFile(`${sysBlock}/nbd${index}/queue/io_timeout`, String(ASKED_AGAIN_MS));
        using stack = new DisposableStack();
        const device = stack.use(deviceOn(to, sysBlock, index, use));
        await within(OPENED_WITHIN_MS, `the opening of ${device.devicePath}`, () => device.hold());
        stack.move();
        return device;
      } catch (thrown) {
        disconnectNbd(to, index);
        throw thrown;
      }
    },
    async adopt(device, use) {
      const index = indexOf(sysBlock, device);
      if (index === undefined || !isConnectedFor(sysBlock, index, use.name)) {
        const sentence = `no nbd device ${device.major}:${device.minor} is connected for ${use.name}`;
        throw new Failure('gone', sentence, { ...device });
      }
      return deviceOn(await opened(), sysBlock, index, use);
    },
    names: async () => named().map(({ name }) => name),
    async forget(name) {
      for (const each of named()) {
        if (each.name === name) disconnectNbd(await opened(), each.index);
      }
    },
    [Symbol.dispose]: () => family?.[Symbol.dispose](),
  };
}

function tryOpen(openFamily: () => NetlinkFamily): NetlinkFamily | undefined {
  try {
    return openFamily();
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return undefined;
    throw thrown;
  }
}

/** Without partitions: what a guest writes to its disk is not for this host's kernel to read. */
async function loadModule(openFamily: () => NetlinkFamily): Promise<NetlinkFamily> {
  const why = await promisify(execFile)('modprobe', ['nbd', 'max_part=0']).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  const family = tryOpen(openFamily);
  if (family !== undefined) return family;
  const advice = 'load the module with: modprobe nbd max_part=0';
  throw new Failure('unavailable', `the kernel has no nbd devices — ${advice}`, {}, why);
}

function namedDevices(sysBlock: string): { index: number; name: string }[] {
  return namesIn(sysBlock).flatMap((folder) => {
    const index = /^nbd(\d+)$/.exec(folder)?.[1];
    const backend = index === undefined ? undefined : textOf(`${sysBlock}/${folder}/backend`);
    if (backend?.startsWith(PREFIX) !== true) return [];
    return [{ index: Number(index), name: backend.slice(PREFIX.length) }];
  });
}

function indexOf(sysBlock: string, { major, minor }: DeviceNumber): number | undefined {
  const folder = namesIn(sysBlock).find((name) => {
    const there = /^nbd\d+$/.test(name) ? deviceIn(`${sysBlock}/${name}`) : undefined;
    return there?.major === major && there.minor === minor;
  });
  return folder === undefined ? undefined : Number(folder.slice('nbd'.length));
}

/** Kernels before 5.14 keep no names: there whatever is connected is taken for what the store says. */
function isConnectedFor(sysBlock: string, index: number, name: string): boolean {
  const folder = `${sysBlock}/nbd${index}`;
  if (textOf(`${folder}/pid`) === undefined) return false;
  const backend = textOf(`${folder}/backend`);
  return backend === undefined || backend === PREFIX + name;
}

function setupOf({ socket, sizeBytes, flags }: ChosenExport, { name }: NbdUse) {
  return {
    socketFd: socket.number,
    sizeBytes,
    blockSizeBytes: BLOCK_BYTES,
    serverFlags: flags,
    deadConnSeconds: DEAD_CONNECTION_SECONDS,
    identifier: PREFIX + name,
  };
}

function deviceOn(
  family: NetlinkFamily,
  sysBlock: string,
  index: number,
  { name, readOnly }: NbdUse,
): NbdDevice {
  const devicePath = nbdPath(index);
  const identifier = PREFIX + name;
  const device = deviceIn(`${sysBlock}/nbd${index}`);
  if (device === undefined) throw new Failure('gone', `${devicePath} is gone`);
  const change = (what: object): void =>
    withSentence('change', () => reconfigureNbd(family, { index, identifier, ...what }));
  const opened = new DisposableStack();
  let opening: Promise<void> | undefined;
  const open = async (): Promise<void> => {
    using fresh = new DisposableStack();
    fresh.use(await openExclusive(devicePath, readOnly));
    if (opened.disposed) return;
    // Refused when the number has become another disk's: then its device is not kept.
    change({ disconnectOnClose: true });
    opened.use(fresh.move());
  };
  return {
    device,
    devicePath,
    get sizeBytes() {
      return Number(textOf(`${sysBlock}/nbd${index}/size`) ?? 0) * BLOCK_BYTES;
    },
    async hold() {
      opening ??= open();
      try {
        await opening;
      } catch (thrown) {
        opening = undefined;
        throw thrown;
      }
    },
    async reconnect({ socket, sizeBytes }) {
      change({ socketFd: socket.number, sizeBytes });
    },
    async resize(sizeBytes) {
      change({ sizeBytes });
    },
    async sever() {
      // One that is not held yet may be free, and another disk's by now.
      if (!isConnectedFor(sysBlock, index, name)) return;
      withSentence('disconnect', () => disconnectNbd(family, index));
    },
    [Symbol.dispose]: () => opened[Symbol.dispose](),
  };
}

/** Not on this thread, as it may take long. */
async function openExclusive(path: string, readOnly: boolean): Promise<Fd> {
  const flags = (readOnly ? O.RDONLY : O.RDWR) | O.EXCL | O.CLOEXEC;
  for (let looks = BUSY_LOOKS; ; looks--) {
    try {
      return ownFd(await promisify(open)(path, flags));
    } catch (thrown) {
      const { code } = thrown as NodeJS.ErrnoException;
      if (code !== 'EBUSY')
        throw new Failure('io', `${path} cannot be opened: ${code}`, {}, thrown);
      if (looks === 0)
        throw new Failure('in-use', `${path} is held exclusively by someone else`, {}, thrown);
    }
    await sleep(LOOK_AGAIN_MS);
  }
}

const sentences: Readonly<Record<string, readonly [Failure['kind'], string]>> = {
  EPERM: ['denied', 'is allowed to root alone'],
  ENOMEM: ['exhausted', 'needs memory that the kernel does not have'],
  EINVAL: ['gone', 'is refused: it is not connected for this disk any more'],
  ENODEV: ['gone', 'is refused: there is no such device'],
};

function withSentence<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (thrown) {
    if (!isErrno(thrown)) throw thrown;
    const [kind, why] = sentences[thrown.code] ?? ['io', `fails: ${thrown.code}`];
    throw new Failure(kind, `to ${what} an nbd device ${why}`, {}, thrown);
  }
}
