/**
 * A stand-in for Linux' xen-blkback: the same nodes in the same order, on the real block device.
 * What the kernel does with each state: drivers/block/xen-blkback/xenbus.c, as seen in traces of it.
 */
import { sentenceOf } from '../base/failure.ts';
import { type Log, silentLog } from '../base/log.ts';
import { parsePhysicalDevice, XenbusState } from '../disk/backend-nodes.ts';
import { isErrno } from '../sys/ffi.ts';
import type { Store, StoreOps, Watch } from '../xenstore/store.ts';
import {
  type BackendSysfs,
  createBackendsDir,
  createBackendSysfs,
  createDriverDir,
} from './backend-sysfs.ts';
import { openServedDisk, type ServedDisk } from './blkback-disk.ts';
import type { NbdDevices } from './nbd-devices.ts';
import type { Ring, Rings } from './rings.ts';
import { type DriverDevice, startXenbus, type Xenbus, type XenbusDevice } from './xenbus.ts';

export interface BlkbackOptions {
  /** The connection of the domain whose kernel this is. */
  readonly store: Store;
  readonly rings: Rings;
  /** Stands for /sys: `bus/xen-backend/devices/vbd-DOMID-DEVID/` appears below it. */
  readonly sysfsDir: string;
  readonly nbd: Pick<NbdDevices, 'open'>;
  readonly log?: Log | undefined;
}

// xen/io/blkif.h; the numbers are Linux' defaults with one CPU
const features = {
  'feature-max-indirect-segments': 256,
  'multi-queue-max-queues': 1,
  'max-ring-page-order': 4,
} as const;
const infoBits = { cdrom: 1, removable: 2, readOnly: 4 } as const;

/** Serves every `vbd` of the domain until disposed. */
export async function startBlkback(options: BlkbackOptions): Promise<Xenbus> {
  createBackendsDir(options.sysfsDir);
  const vbds = new Map<string, Vbd>();
  const driver = createDriverDir(options.sysfsDir, (name) => {
    const vbd = vbds.get(name);
    if (vbd === undefined) return;
    vbd.isReleased = true;
    vbd.device.run(() => vbd.device.unregister());
  });
  const probe = (device: XenbusDevice): Promise<DriverDevice> => probeVbd(device, options, vbds);
  const bus = await startXenbus({ store: options.store, side: 'backend', probe, log: options.log });
  return {
    ...bus,
    async [Symbol.asyncDispose]() {
      await bus[Symbol.asyncDispose]();
      driver[Symbol.dispose]();
    },
  };
}

interface Vbd {
  readonly device: XenbusDevice;
  readonly sysfs: BackendSysfs;
  readonly options: BlkbackOptions;
  disk: ServedDisk | undefined;
  cdrom: boolean;
  ring: Ring | undefined;
  /** Someone has asked the driver to let go of it, while its device stays. */
  isReleased: boolean;
}

async function probeVbd(
  device: XenbusDevice,
  options: BlkbackOptions,
  vbds: Map<string, Vbd>,
): Promise<DriverDevice> {
  const { store, path } = device;
  const [, , domid, devid] = path.split('/');
  const name = `vbd-${domid}-${devid}`;
  const sysfs = createBackendSysfs(options.sysfsDir, name);
  const nothing = { disk: undefined, cdrom: false, ring: undefined, isReleased: false } as const;
  const vbd: Vbd = { ...nothing, device, sysfs, options };
  vbds.set(name, vbd);
  const publish = (...names: (keyof typeof features)[]): Promise<void> =>
    device.change((tx) => {
      for (const name of names) void tx.write(`${path}/${name}`, String(features[name]));
    });
  await publish('feature-max-indirect-segments', 'multi-queue-max-queues');
  const watch: Watch = await store.observe(`${path}/physical-device`, () =>
    device.run(() => physicalDeviceChanged(vbd)),
  );
  await publish('max-ring-page-order');
  await device.switchState(XenbusState.initWait);
  return {
    otherEndChanged: (state) => frontendChanged(vbd, state),
    async remove() {
      vbds.delete(name);
      if (!vbd.isReleased) sysfs.remove();
      else sysfs.unbind();
      await watch[Symbol.asyncDispose]();
      await disconnect(vbd);
      vbd.disk?.close();
    },
  };
}

/** The device is opened once; blkback does not look at `physical-device` again while it has one. */
async function physicalDeviceChanged(vbd: Vbd): Promise<void> {
  const { device, options } = vbd;
  const { log = silentLog } = options;
  const text = await device.store.read(`${device.path}/physical-device`);
  if (text === undefined) return;
  const number = parsePhysicalDevice(text);
  if (number === undefined) return device.fail('EINVAL', 'reading physical-device');
  if (vbd.disk !== undefined) {
    const { major, minor } = vbd.disk.number;
    if (number.major !== major || number.minor !== minor) {
      log('warning', `${device.path}: a changed physical-device is not followed`);
    }
    return;
  }
  const [mode, type] = await Promise.all([
    device.store.read(`${device.path}/mode`),
    device.store.read(`${device.otherEndPath}/device-type`),
  ]);
  if (mode === undefined) return device.fail('ENOENT', 'reading mode');
  vbd.cdrom = type === 'cdrom';
  try {
    vbd.disk = openServedDisk({ number, mode, sysfs: vbd.sysfs, nbd: options.nbd });
  } catch (thrown) {
    log('warning', `${device.path}: ${sentenceOf(thrown)}`);
    return device.fail(isErrno(thrown) ? thrown.code : 'ENODEV', 'creating vbd structure');
  }
  await connectIfReady(vbd);
}

async function frontendChanged(vbd: Vbd, state: number): Promise<void> {
  const { device } = vbd;
  switch (state) {
    case XenbusState.initialising:
      if (device.state === XenbusState.closed) await device.switchState(XenbusState.initWait);
      return;
    case XenbusState.initialised:
    case XenbusState.connected:
      if (device.state === XenbusState.connected) return;
      await disconnect(vbd);
      if (await mapRing(vbd)) await connectIfReady(vbd);
      return;
    case XenbusState.closing:
      await device.switchState(XenbusState.closing);
      return;
    case XenbusState.closed:
      await disconnect(vbd);
      await device.switchState(XenbusState.closed);
      // From here to unregister() the disk is closed for all to see, and still open.
      if ((await device.store.read(`${device.path}/online`)) !== '1') await device.unregister();
      return;
    case 0:
      await device.unregister();
      return;
    default:
      await device.fail('EINVAL', `saw state ${state} at frontend`);
  }
}

/** Takes up the ring that the frontend offers; false when it offers none. */
async function mapRing(vbd: Vbd): Promise<boolean> {
  const { device, options } = vbd;
  const names = [
    'protocol',
    'feature-persistent',
    'multi-queue-num-queues',
    'ring-page-order',
    'event-channel',
    'ring-ref',
  ];
  const values = await Promise.all(
    names.map((name) => device.store.read(`${device.otherEndPath}/${name}`)),
  );
  const [protocol = 'x86_64-abi', , , , eventChannel, ringRef] = values;
  if (!/^(x86_32|x86_64|arm)-abi$/.test(protocol)) {
    await device.fail('EINVAL', `unknown fe protocol ${protocol}`);
    return false;
  }
  if (ringRef === undefined || eventChannel === undefined) {
    await device.fail('ENOENT', 'reading ring-ref and event-channel');
    return false;
  }
  vbd.ring = options.rings.map(device.otherEndDomid, Number(ringRef));
  if (vbd.ring === undefined) await device.fail('EINVAL', `mapping ring-ref ${ringRef}`);
  return vbd.ring !== undefined;
}

async function connectIfReady(vbd: Vbd): Promise<void> {
  const { device, disk, ring } = vbd;
  if (disk === undefined || ring === undefined || device.state === XenbusState.connected) return;
  await device.change((tx) => publishDisk(vbd, disk, tx));
  ring.serve = async (request) => {
    if (disk.resized()) device.run(() => publishSize(vbd, disk));
    return disk.serve(request);
  };
  await device.switchState(XenbusState.connected);
}

async function publishDisk(vbd: Vbd, disk: ServedDisk, tx: StoreOps): Promise<void> {
  const { path } = vbd.device;
  const write = (name: string, value: number): void =>
    void tx.write(`${path}/${name}`, String(value));
  const { writeCache, discard, removable, sectorBytes, physicalSectorBytes } = disk.features;
  write('feature-flush-cache', writeCache ? 1 : 0);
  const discardEnable = await tx.read(`${path}/discard-enable`);
  if (Number(discardEnable ?? 1) !== 0 && discard !== undefined) {
    write('discard-granularity', discard.granularityBytes);
    write('discard-alignment', discard.alignmentBytes);
    write('discard-secure', 0);
    write('feature-discard', 1);
  }
  write('feature-barrier', writeCache ? 1 : 0);
  write('feature-persistent', 1);
  write('sectors', disk.sectors);
  write(
    'info',
    (vbd.cdrom ? infoBits.cdrom : 0) |
      (removable ? infoBits.removable : 0) |
      (disk.readOnly ? infoBits.readOnly : 0),
  );
  write('sector-size', sectorBytes);
  write('physical-sector-size', physicalSectorBytes);
}

/** The state is written again, though it stays: the frontend watches that node only. */
async function publishSize(vbd: Vbd, disk: ServedDisk): Promise<void> {
  const { path, state } = vbd.device;
  await vbd.device.change((tx) => {
    void tx.write(`${path}/sectors`, String(disk.sectors));
    void tx.write(`${path}/state`, String(state));
  });
}

/** Stops serving the ring; the disk stays open for a frontend that comes back. */
async function disconnect(vbd: Vbd): Promise<void> {
  if (vbd.ring !== undefined) vbd.ring.serve = undefined;
  vbd.ring = undefined;
  await vbd.disk?.idle();
}
