/**
 * The nbd devices of the embedded host's kernel: connected and let go of as Linux' are, and open to
 * the block backend beside real devices. What was asked of a server that is gone waits for the next.
 */
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { NbdDevice, NbdKernel, NbdUse } from '../backend/nbd-kernel.ts';
import type { ChosenExport } from '../nbd/client.ts';
import { type ClientRequest, type NbdSession, sessionOn } from '../nbd/session.ts';
import { Command, TransmissionFlag } from '../nbd/wire.ts';
import type { DeviceNumber } from '../sys/device-number.ts';
import { NBD_MAJOR, nbdPath } from '../sys/nbd.ts';
import type { BlockDevice } from './block-device.ts';

export interface NbdDevices extends Disposable {
  /** As one vbdd uses them; disposing it lets go of all that it holds. */
  kernel(): NbdKernel;
  /** Opens one for the block backend; undefined when the number is none of theirs. */
  open(number: DeviceNumber): BlockDevice | undefined;
}

interface Ask {
  readonly request: ClientRequest;
  readonly answered: PromiseWithResolvers<Uint8Array>;
}

interface Device {
  readonly index: number;
  readonly name: string;
  readonly flags: number;
  sizeBytes: number;
  openers: number;
  severed: boolean;
  session: NbdSession | undefined;
  /** Settled while somebody serves it, or nobody ever will. */
  served: PromiseWithResolvers<void>;
  /** What was asked and not answered yet, in its order. */
  readonly asks: Set<Ask>;
}

/** A kernel's nbd driver that has no devices yet. */
export function createNbdDevices(): NbdDevices {
  const devices = new Map<number, Device>();
  const close = (device: Device): void => {
    device.openers -= 1;
    if (device.openers > 0 || devices.get(device.index) !== device) return;
    sever(device);
    devices.delete(device.index);
  };
  const find = ({ major, minor }: DeviceNumber): Device | undefined =>
    major === NBD_MAJOR ? devices.get(minor) : undefined;
  return {
    kernel() {
      const held = new DisposableStack();
      return {
        async connect(served, use) {
          let index = 0;
          while (devices.has(index)) index += 1;
          const device = newDevice(index, served, use);
          devices.set(index, device);
          follow(device, served);
          const own = held.use(deviceOf(device, close));
          await own.hold();
          return own;
        },
        async adopt(number, { name }) {
          const device = find(number);
          if (device?.name === name) return held.use(deviceOf(device, close));
          throw new Failure('gone', `no nbd device ${number.minor} is connected for ${name}`);
        },
        names: async () => [...devices.values()].map(({ name }) => name),
        async forget(name) {
          for (const device of devices.values()) if (device.name === name) sever(device);
        },
        [Symbol.dispose]: () => held[Symbol.dispose](),
      };
    },
    open(number) {
      const device = find(number);
      return device === undefined ? undefined : blockDeviceOn(device, close);
    },
    [Symbol.dispose]() {
      for (const device of devices.values()) sever(device);
      devices.clear();
    },
  };
}

function newDevice(index: number, { sizeBytes, flags }: ChosenExport, { name }: NbdUse): Device {
  const unserved = Promise.withResolvers<void>();
  const none = { openers: 0, severed: false, session: undefined, asks: new Set<Ask>() };
  return { index, name, flags, sizeBytes, served: unserved, ...none };
}

/** The server of that connection is the device's, until it hangs up. */
function follow(device: Device, { socket, sizeBytes }: ChosenExport): void {
  const session = sessionOn(socket);
  device.session = session;
  device.sizeBytes = sizeBytes;
  device.served.resolve();
  void session.ended.then(() => {
    if (device.session !== session) return;
    device.session = undefined;
    if (!device.severed) device.served = Promise.withResolvers();
  });
  for (const ask of device.asks) send(device, session, ask);
}

function send(device: Device, session: NbdSession, ask: Ask): void {
  session.send(ask.request, (error, data) => {
    device.asks.delete(ask);
    if (error === 0) ask.answered.resolve(data);
    else ask.answered.reject(new Failure('io', `the NBD server answers with error ${error}`));
  });
}

function sever(device: Device): void {
  device.severed = true;
  device.served.resolve();
  device.session?.[Symbol.dispose]();
  for (const { answered } of device.asks) {
    answered.reject(new Failure('gone', `${nbdPath(device.index)} was disconnected`));
  }
  device.asks.clear();
}

function ask(device: Device, request: ClientRequest): Promise<Uint8Array> {
  const answered = Promise.withResolvers<Uint8Array>();
  if (device.severed) {
    answered.reject(new Failure('gone', `${nbdPath(device.index)} was disconnected`));
    return answered.promise;
  }
  const asked = { request, answered };
  device.asks.add(asked);
  if (device.session !== undefined) send(device, device.session, asked);
  return answered.promise;
}

/** As of Linux, where whoever opens a device may have to wait for those who read from it. */
function deviceOf(device: Device, close: (device: Device) => void): NbdDevice {
  let [held, letGo] = [false, false];
  return {
    async hold() {
      await device.served.promise;
      if (held || letGo) return;
      if (device.severed) throw new Failure('gone', `${nbdPath(device.index)} was disconnected`);
      held = true;
      device.openers += 1;
    },
    device: { major: NBD_MAJOR, minor: device.index },
    devicePath: nbdPath(device.index),
    get sizeBytes() {
      return device.sizeBytes;
    },
    async reconnect(served) {
      if (device.session === undefined) follow(device, served);
    },
    async resize(sizeBytes) {
      device.sizeBytes = sizeBytes;
    },
    sever: async () => sever(device),
    [Symbol.dispose]() {
      if (held) close(device);
      [held, letGo] = [false, true];
    },
  };
}

function blockDeviceOn(device: Device, close: (device: Device) => void): BlockDevice {
  device.openers += 1;
  const can = (flag: number): boolean => (device.flags & flag) !== 0;
  const range = (sector: number, sectors: number): { at: number; lengthBytes: number } => ({
    at: sector * SECTOR_BYTES,
    lengthBytes: sectors * SECTOR_BYTES,
  });
  return {
    sectors: () => Math.floor(device.sizeBytes / SECTOR_BYTES),
    features: () => ({
      writeCache: can(TransmissionFlag.flush),
      removable: false,
      sectorBytes: SECTOR_BYTES,
      physicalSectorBytes: SECTOR_BYTES,
      discard: can(TransmissionFlag.trim)
        ? { granularityBytes: SECTOR_BYTES, alignmentBytes: 0 }
        : undefined,
    }),
    async read(sector, sectors) {
      return new Uint8Array(await ask(device, { type: Command.read, ...range(sector, sectors) }));
    },
    async write(sector, data) {
      const sectors = data.length / SECTOR_BYTES;
      await ask(device, { type: Command.write, ...range(sector, sectors), data });
    },
    async flush() {
      await ask(device, { type: Command.flush, at: 0, lengthBytes: 0 });
    },
    async discard(sector, sectors) {
      await ask(device, { type: Command.trim, ...range(sector, sectors) });
    },
    [Symbol.dispose]: () => close(device),
  };
}
