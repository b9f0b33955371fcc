/**
 * The nodes with which libxl hands a disk to its backend and its guest: their paths, values, order
 * and permissions, as traced on a real Xen.
 */
import { Failure } from '../base/failure.ts';
import type { Permission } from '../xenstore/store.ts';
import { XenbusState } from './backend-nodes.ts';
import type { DiskSpec } from './spec.ts';

/** One node to be written; without permissions it inherits its parent's. */
export interface StoreNode {
  readonly path: string;
  readonly value: string;
  readonly permissions?: readonly Permission[];
}

/** The kinds of backend directory that a disk may have; a guest's own side is always `vbd`. */
export type DiskKind = 'vbd' | 'vbd3' | 'qdisk';

export interface DiskPlace {
  readonly domid: number;
  /** The vdev's number. */
  readonly devid: number;
  readonly backendDomid: number;
  readonly kind: DiskKind;
}

export interface NodeOptions extends DiskPlace {
  /** Where scripts named without a slash are. */
  readonly scriptDir: string;
  /** The ring's layout, for PV guests alone: `x86_64-abi`. */
  readonly protocol?: string | undefined;
}

/** The three directories of a disk. */
export interface DiskPaths {
  readonly backend: string;
  readonly frontend: string;
  /** The toolstack's own copy, which a guest cannot write. */
  readonly libxl: string;
}

/** The directories that libxl writes for a disk. */
export function diskPaths({ domid, devid, backendDomid, kind }: DiskPlace): DiskPaths {
  return {
    backend: `/local/domain/${backendDomid}/backend/${kind}/${domid}/${devid}`,
    frontend: `/local/domain/${domid}/device/vbd/${devid}`,
    libxl: `/libxl/${domid}/device/vbd/${devid}`,
  };
}

/**
 * What is written, in order, in one transaction, once each of the three {@link diskPaths} has been
 * removed. Children of the backend directory inherit its permissions; frontend nodes are the
 * guest's own.
 * @throws Failure unsupported for virtio, and for a format that the kind cannot name
 */
export function libxlNodes(spec: DiskSpec, options: NodeOptions): StoreNode[] {
  if (spec.specification === 'virtio') {
    throw new Failure('unsupported', 'vbdkit serves no virtio disks — use specification=xen');
  }
  const { domid, devid, backendDomid } = options;
  const paths = diskPaths(options);
  const guests = [
    { access: 'n', domid },
    { access: 'r', domid: backendDomid },
  ] as const;
  const backends = [
    { access: 'n', domid: backendDomid },
    { access: 'r', domid },
  ] as const;
  const nodes = backendValues(spec, options);
  return [
    { path: `${paths.libxl}/frontend`, value: paths.frontend },
    { path: `${paths.libxl}/backend`, value: paths.backend },
    { path: paths.frontend, value: '', permissions: guests },
    { path: `${paths.frontend}/backend`, value: paths.backend },
    ...below(paths.frontend, frontendValues(spec, devid, options)).map((node) => ({
      ...node,
      permissions: guests,
    })),
    { path: paths.backend, value: '', permissions: backends },
    { path: `${paths.backend}/frontend`, value: paths.frontend },
    ...below(paths.backend, nodes),
    ...below(paths.libxl, nodes),
  ];
}

type Values = Readonly<Record<string, string | undefined>>;

function below(folder: string, values: Values): StoreNode[] {
  return Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [{ path: `${folder}/${name}`, value }],
  );
}

function frontendValues(spec: DiskSpec, devid: number, options: NodeOptions): Values {
  return {
    'backend-id': String(options.backendDomid),
    state: String(XenbusState.initialising),
    'virtual-device': String(devid),
    'device-type': spec.cdrom ? 'cdrom' : 'disk',
    trusted: bit(spec.trusted ?? true),
    protocol: options.protocol,
  };
}

function backendValues(spec: DiskSpec, options: NodeOptions): Values {
  const colo = spec.colo === true;
  return {
    params: params(spec, options.kind),
    script: script(spec, options),
    'colo-host': colo ? spec.coloHost : undefined,
    'colo-port': colo && spec.coloPort !== undefined ? String(spec.coloPort) : undefined,
    'colo-export': colo ? spec.coloExport : undefined,
    'active-disk': colo ? spec.activeDisk : undefined,
    'hidden-disk': colo ? spec.hiddenDisk : undefined,
    'frontend-id': String(options.domid),
    online: '1',
    removable: bit(spec.cdrom),
    bootable: '1',
    state: String(XenbusState.initialising),
    dev: spec.vdev,
    type: options.kind === 'vbd' ? 'phy' : options.kind,
    mode: spec.access,
    'device-type': spec.cdrom ? 'cdrom' : 'disk',
    'direct-io-safe': spec.directIoSafe ? '1' : undefined,
    'discard-enable': bit(spec.discard ?? spec.access !== 'r'),
    specification: 'xen',
  };
}

function bit(value: boolean): string {
  return value ? '1' : '0';
}

/** What the backend is to open: a bare path for blkback, behind a format for the others. */
function params(spec: DiskSpec, kind: DiskKind): string {
  const target = spec.target ?? '';
  if (kind === 'vbd') return target;
  const names = { raw: 'aio', empty: 'aio', qcow1: 'qcow', qcow2: 'qcow2', vhd: 'vhd', qed: 'qed' };
  if (spec.format === 'vmdk' || spec.format === 'vhdx') {
    throw new Failure(
      'unsupported',
      `libxl has no name for the format ${spec.format} — write script=block-vbd,target=${spec.format}:${target}`,
    );
  }
  return `${names[spec.format]}:${target}`;
}

/** qdisk has no script; the others have one unless `script=` was given empty. */
function script(spec: DiskSpec, { kind, scriptDir }: NodeOptions): string | undefined {
  if (kind === 'qdisk' || spec.script === '') return undefined;
  const name = spec.script ?? (kind === 'vbd' ? 'block' : 'block-tap');
  return name.includes('/') ? name : `${scriptDir}/${name}`;
}
