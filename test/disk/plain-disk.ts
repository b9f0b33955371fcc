/** The disk of which nothing but a target and a vdev was said. */
import type { DiskSpec } from '../../src/disk/spec.ts';

/** `vdev=xvdb,target=/i` and nothing else said. */
export const plainDisk: DiskSpec = {
  target: '/i',
  format: 'raw',
  vdev: 'xvdb',
  access: 'w',
  cdrom: false,
  backend: undefined,
  backendType: undefined,
  script: undefined,
  directIoSafe: false,
  discard: undefined,
  trusted: undefined,
  specification: undefined,
  grantUsage: undefined,
  colo: undefined,
  coloHost: undefined,
  coloPort: undefined,
  coloExport: undefined,
  activeDisk: undefined,
  hiddenDisk: undefined,
};
