/**
 * The rows that libxl, blkback and blkfront write around a disk, in their order. D is the guest's
 * domid, UUID its own, and `*` a value that depends on the machine: see store-writes.ts.
 */
import type { Row } from './store-writes.ts';

function lines(text: string): Row[] {
  return text
    .trim()
    .split('\n')
    .map((line) => line.trim());
}

/** libxl, for a new PV domain. */
export const domain = lines(`
  RM /local/domain/D
  WRITE /local/domain/D
  PERMS /local/domain/D n0 rD
  RM /vm/UUID
  WRITE /vm/UUID
  PERMS /vm/UUID n0 rD
  RM /libxl/D
  WRITE /libxl/D
  PERMS /libxl/D n0
  WRITE /libxl/D/device
  PERMS /libxl/D/device n0
  WRITE /local/domain/D/vm /vm/UUID
  WRITE /local/domain/D/name *
  WRITE /vm/UUID/name *
  WRITE /local/domain/D/cpu
  PERMS /local/domain/D/cpu n0 rD
  WRITE /local/domain/D/memory
  PERMS /local/domain/D/memory n0 rD
  WRITE /local/domain/D/device
  PERMS /local/domain/D/device n0 rD
  WRITE /local/domain/D/device/suspend/event-channel *
  PERMS /local/domain/D/device/suspend/event-channel nD
  WRITE /local/domain/D/control
  PERMS /local/domain/D/control n0 rD
  WRITE /local/domain/D/control/shutdown
  PERMS /local/domain/D/control/shutdown nD
  WRITE /local/domain/D/control/feature-poweroff
  PERMS /local/domain/D/control/feature-poweroff nD
  WRITE /local/domain/D/control/feature-reboot
  PERMS /local/domain/D/control/feature-reboot nD
  WRITE /local/domain/D/control/feature-suspend
  PERMS /local/domain/D/control/feature-suspend nD
  WRITE /local/domain/D/control/sysrq
  PERMS /local/domain/D/control/sysrq nD
  WRITE /local/domain/D/data
  PERMS /local/domain/D/data nD
  WRITE /local/domain/D/drivers
  PERMS /local/domain/D/drivers nD
  WRITE /local/domain/D/feature
  PERMS /local/domain/D/feature nD
  WRITE /local/domain/D/attr
  PERMS /local/domain/D/attr nD
  WRITE /local/domain/D/error
  PERMS /local/domain/D/error nD
  WRITE /vm/UUID/uuid UUID
  WRITE /vm/UUID/name *
  WRITE /local/domain/D/control/platform-feature-multiprocessor-suspend 1
  WRITE /local/domain/D/control/platform-feature-xs_reset_watches 1
  WRITE /libxl/D/type pv
  WRITE /local/domain/D/memory/static-max *
  WRITE /local/domain/D/memory/target *
  WRITE /local/domain/D/memory/videoram 0
  WRITE /local/domain/D/domid D
  WRITE /local/domain/D/store/port *
  WRITE /local/domain/D/store/ring-ref *
  WRITE /local/domain/D/cpu/0/availability online
  WRITE /vm/UUID/image/ostype linux
`);

/** libxl, for one disk of a new or a running guest. */
export function attach(devid: number, vdev: string, mode: 'r' | 'w'): Row[] {
  const frontend = `/local/domain/D/device/vbd/${devid}`;
  const backend = `/local/domain/0/backend/vbd/D/${devid}`;
  const libxl = `/libxl/D/device/vbd/${devid}`;
  const nodes = (folder: string): string => `
    WRITE ${folder}/params *
    WRITE ${folder}/script *
    WRITE ${folder}/frontend-id D
    WRITE ${folder}/online 1
    WRITE ${folder}/removable 0
    WRITE ${folder}/bootable 1
    WRITE ${folder}/state 1
    WRITE ${folder}/dev ${vdev}
    WRITE ${folder}/type phy
    WRITE ${folder}/mode ${mode}
    WRITE ${folder}/device-type disk
    WRITE ${folder}/discard-enable ${mode === 'w' ? 1 : 0}
    WRITE ${folder}/specification xen`;
  return lines(`
    RM ${libxl}
    WRITE ${libxl}/frontend ${frontend}
    WRITE ${libxl}/backend ${backend}
    RM ${frontend}
    MKDIR ${frontend}
    PERMS ${frontend} nD r0
    WRITE ${frontend}/backend ${backend}
    WRITE ${frontend}/backend-id 0
    PERMS ${frontend}/backend-id nD r0
    WRITE ${frontend}/state 1
    PERMS ${frontend}/state nD r0
    WRITE ${frontend}/virtual-device ${devid}
    PERMS ${frontend}/virtual-device nD r0
    WRITE ${frontend}/device-type disk
    PERMS ${frontend}/device-type nD r0
    WRITE ${frontend}/trusted 1
    PERMS ${frontend}/trusted nD r0
    WRITE ${frontend}/protocol x86_64-abi
    PERMS ${frontend}/protocol nD r0
    RM ${backend}
    MKDIR ${backend}
    PERMS ${backend} n0 rD
    WRITE ${backend}/frontend ${frontend}${nodes(backend)}${nodes(libxl)}
  `);
}

/** libxl, for a disk of a guest that goes on. */
export function detach(devid: number): Row[] {
  return lines(`
    WRITE /local/domain/0/backend/vbd/D/${devid}/online 0
    WRITE /local/domain/0/backend/vbd/D/${devid}/state 5
    RM /local/domain/D/device/vbd/${devid}
    RM /libxl/D/device/vbd/${devid}
    RM /local/domain/0/backend/vbd/D/${devid}
  `);
}

/** libxl, for a guest that ends and its only disk; `closed` when the guest has closed it before. */
export function end(devid: number, backend: 'closed' | 'open'): Row[] {
  return lines(`
    RM /local/domain/D/device/vbd/${devid}
    RM /local/domain/D/device/vbd
    WRITE /local/domain/0/backend/vbd/D/${devid}/online 0
    ${backend === 'open' ? `WRITE /local/domain/0/backend/vbd/D/${devid}/state 5` : ''}
    RM /local/domain/D/device/vbd/${devid}
    RM /libxl/D/device/vbd/${devid}
    RM /libxl/D/device/vbd
    RM /libxl/D/device
    RM /local/domain/0/backend/vbd/D/${devid}
    RM /local/domain/0/backend/vbd/D
    RM /local/domain/0/backend/vbd
    RM /local/domain/0/backend
    RM /vm/UUID
    RM /local/domain/D
    RM /libxl/D
  `).filter((row) => row !== '');
}

/** blkback, before it has a device. */
export function backendBegins(devid: number): Row[] {
  return lines(`
    WRITE backend/vbd/D/${devid}/feature-max-indirect-segments 256
    WRITE backend/vbd/D/${devid}/multi-queue-max-queues 1
    WRITE backend/vbd/D/${devid}/max-ring-page-order 4
    WRITE backend/vbd/D/${devid}/state 2
  `);
}

/** blkback, when it has a device and the guest's ring. */
export function backendConnects(devid: number, mode: 'r' | 'w'): Row[] {
  const dir = `backend/vbd/D/${devid}`;
  const canWrite = mode === 'w' ? 1 : 0;
  const discard = `
    WRITE ${dir}/discard-granularity *
    WRITE ${dir}/discard-alignment 0
    WRITE ${dir}/discard-secure 0
    WRITE ${dir}/feature-discard 1`;
  return lines(`
    WRITE ${dir}/feature-flush-cache ${canWrite}${mode === 'w' ? discard : ''}
    WRITE ${dir}/feature-barrier ${canWrite}
    WRITE ${dir}/feature-persistent 1
    WRITE ${dir}/sectors *
    WRITE ${dir}/info ${mode === 'w' ? 0 : 4}
    WRITE ${dir}/sector-size 512
    WRITE ${dir}/physical-sector-size *
    WRITE ${dir}/state 4
  `);
}

/** blkback, where it writes nothing but states. */
export function backendStates(devid: number, ...states: number[]): Row[] {
  return states.map((state) => `WRITE backend/vbd/D/${devid}/state ${state}`);
}

/** The guest's kernel, before it looks at its disks. */
export const guestBoots = lines(`
  WRITE control/feature-poweroff 1
  WRITE control/feature-reboot 1
  WRITE control/feature-suspend 1
`);

/** blkfront, from the backend's state 2 to the usable disk. */
export function guestConnects(devid: number): Row[] {
  return lines(`
    WRITE device/vbd/${devid}/ring-ref *
    WRITE device/vbd/${devid}/event-channel *
    WRITE device/vbd/${devid}/protocol x86_64-abi
    WRITE device/vbd/${devid}/feature-persistent 1
    WRITE device/vbd/${devid}/state 3
    WRITE device/vbd/${devid}/state 4
  `);
}

/** blkfront, where it writes nothing but states. */
export function guestStates(devid: number, ...states: number[]): Row[] {
  return states.map((state) => `WRITE device/vbd/${devid}/state ${state}`);
}
