/**
 * The backend directory of one disk, `backend/KIND/DOMID/DEVID`, as values: which nodes are read
 * and what they say. Node names: xen-vbd-interface(7) and libxl.
 */
import type { Mode } from './identity.ts';

/** XenbusState of xen/io/xenbus.h. */
export const XenbusState = {
  initialising: 1,
  initWait: 2,
  initialised: 3,
  connected: 4,
  closing: 5,
  closed: 6,
  reconfiguring: 7,
  reconfigured: 8,
} as const;

/** Names one disk of one guest in this backend domain. */
export interface DiskKey {
  /** The backend's kind: `vbd`, `vbd3`, `qdisk`. */
  readonly kind: string;
  readonly domid: number;
  readonly devid: number;
}

/** The kinds that hand a disk to a guest; each may hold a file or device. */
export const diskKinds: readonly string[] = ['vbd', 'vbd3', 'qdisk'];

/** The disk's backend directory, relative to the backend domain's own. */
export function backendPath(key: DiskKey): string {
  return `backend/${key.kind}/${key.domid}/${key.devid}`;
}

/** The disk in one word, as its files and the tap have it: `vbd3-7-51712`. */
export function diskName({ kind, domid, devid }: DiskKey): string {
  return `${kind}-${domid}-${devid}`;
}

/** The disk of a name; undefined when it is no disk's. */
export function parseDiskName(name: string): DiskKey | undefined {
  const [, kind = '', domid, devid] = /^(\w+)-(\d+)-(\d+)$/.exec(name) ?? [];
  if (!diskKinds.includes(kind)) return undefined;
  return { kind, domid: Number(domid), devid: Number(devid) };
}

/** The disk that a path belongs to and what is left of the path, or undefined. */
export function parseBackendPath(path: string): { key: DiskKey; leaf: string } | undefined {
  const match = /^backend\/([^/]+)\/(\d+)\/(\d+)(?:\/(.*))?$/.exec(path);
  if (match === null) return undefined;
  const [, kind = '', domid, devid, leaf = ''] = match;
  return { key: { kind, domid: Number(domid), devid: Number(devid) }, leaf };
}

/** The nodes that are read of each disk; all in one round trip. */
export const nodeNames = [
  'state',
  'online',
  'script',
  'params',
  'mode',
  'direct-io-safe',
  'physical-device',
  'hotplug-status',
  'discard-enable',
] as const;

export type NodeName = (typeof nodeNames)[number];
export type NodeValues = Readonly<Partial<Record<NodeName, string | undefined>>>;

export interface BackendNodes {
  readonly state: number;
  /** False once the toolstack has asked for the disk to go. */
  readonly online: boolean;
  /** The hotplug script that libxl would run, or undefined. */
  readonly script: string | undefined;
  readonly params: string;
  readonly mode: Mode;
  readonly directIoSafe: boolean;
  /** `major:minor` in hexadecimal, as blkback reads it, or undefined. */
  readonly physicalDevice: string | undefined;
  readonly hotplugStatus: string | undefined;
  /** False when the guest's config forbids giving space back. */
  readonly discard: boolean;
}

/** What the nodes say; undefined when there is no such disk (no state means no directory). */
export function parseBackendNodes(values: NodeValues): BackendNodes | undefined {
  if (values.state === undefined) return undefined;
  return {
    state: Number(values.state),
    online: values.online !== '0',
    script: values.script,
    params: values.params ?? '',
    mode: parseMode(values.mode ?? 'r'),
    directIoSafe: values['direct-io-safe'] === '1',
    physicalDevice: values['physical-device'],
    hotplugStatus: values['hotplug-status'],
    discard: values['discard-enable'] !== '0',
  };
}

/** The block script's reading of `mode`: a `w` writes, and a `!` beside it lets others write too. */
export function parseMode(text: string): Mode {
  if (!text.includes('w')) return 'r';
  return text.includes('!') ? 'w!' : 'w';
}

/** Reads `diskseq`, hexadecimal as Qubes writes it; undefined when there is none. */
export function parseDiskSequence(text: string | undefined): number | undefined {
  const sequence = Number.parseInt(text ?? '', 16);
  return Number.isNaN(sequence) ? undefined : sequence;
}

/** `major:minor` in lowercase hexadecimal, as blkback parses `physical-device`. */
export function formatPhysicalDevice(device: { major: number; minor: number }): string {
  return `${device.major.toString(16)}:${device.minor.toString(16)}`;
}

/** Reads `physical-device`; undefined when it is not two hexadecimal numbers. */
export function parsePhysicalDevice(text: string): { major: number; minor: number } | undefined {
  const match = /^([\da-f]+):([\da-f]+)$/i.exec(text);
  if (match === null) return undefined;
  return { major: Number.parseInt(match[1] ?? '', 16), minor: Number.parseInt(match[2] ?? '', 16) };
}

/** True when the toolstack was told why there is no such disk. */
export function wasRefused({ hotplugStatus }: BackendNodes): boolean {
  return hotplugStatus === 'error' || hotplugStatus === 'busy';
}
