/** Attach, detach and resize: what an admin asks for, through xl where it is, else in the store itself. */
import { execFile } from 'node:child_process';
import { ftruncateSync } from 'node:fs';
import { promisify } from 'node:util';
import type { DiskRecord, DiskWorld } from '../backend/disk-record.ts';
import { newRecord } from '../backend/disk-record.ts';
import { lookAtTarget } from '../backend/look.ts';
import { resizeImage } from '../backend/nbd-disk.ts';
import { resizeRing } from '../backend/ring-disk.ts';
import { factsOf } from '../backend/reconcile.ts';
import { openTarget } from '../backend/target.ts';
import { attachDisk, detachDisk } from '../backend/toolstack.ts';
import { vmBook } from '../backend/vm-book.ts';
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { backendPath, type DiskKey, XenbusState } from '../disk/backend-nodes.ts';
import type { DiskKind, NodeOptions } from '../disk/libxl-nodes.ts';
import { describeStep, planDisk } from '../disk/plan.ts';
import { type DiskSpec, vbdScript, viaVbdScript } from '../disk/spec.ts';
import { parseSpec } from '../disk/spec-parse.ts';
import { printSpec } from '../disk/spec-print.ts';
import { vdevNumber } from '../disk/vdev.ts';
import { deviceSizeBytes } from '../sys/blockdev.ts';
import type { Answer, Asked } from './api/operations.ts';
import type { Daemon } from './daemon.ts';
import { resolveGuest } from './guests.ts';

/** How long libxl, too, waits for a backend. */
const ATTACH_MS = 10_000;
const XL_MS = 60_000;

export interface VerbOptions {
  /** The xl program, or undefined where there is none or it is not to be used. */
  readonly xl: string | undefined;
  readonly scriptDir: string;
  /** This domain's own number: 0, or a driver domain's. */
  readonly ownDomid: number;
}

type AttachRequest = Asked<'POST /v1/disks'>['body'];

interface Wanted {
  readonly key: DiskKey;
  readonly spec: DiskSpec;
}

/** The disk that the words describe, as vbdkit attaches it: kind vbd, through its own script. */
async function wanted(daemon: Daemon, request: AttachRequest): Promise<Wanted> {
  const { guest, spec: parts, shared } = request;
  const given = parseSpec(parts);
  const spec: DiskSpec = shared && given.access === 'w' ? { ...given, access: 'w!' } : given;
  const domid = await resolveGuest(daemon.world.store, guest);
  const devid = vdevNumber(spec.vdev);
  if (devid === undefined) {
    throw new Failure('invalid', `${spec.vdev} is not a virtual device — name one like xvda`);
  }
  if (spec.script !== undefined && spec.script !== '' && !daemon.world.isOurs(spec.script)) {
    const advice = 'attach it with xl, or leave script out';
    throw new Failure('invalid', `${spec.script} is not a script of vbdkit — ${advice}`);
  }
  if (spec.backend !== undefined && spec.backend !== '0') {
    throw new Failure('unsupported', `the backend is domain ${spec.backend} — attach it with xl`);
  }
  return { key: { kind: 'vbd', domid, devid }, spec: viaVbdScript(spec) };
}

/**
 * Attaches a disk to a running guest and waits until its backend has a device.
 * @returns the disk's record
 * @throws Failure: why it was refused; then nothing of it is left
 */
export async function attach(
  daemon: Daemon,
  options: VerbOptions,
  request: AttachRequest,
): Promise<DiskRecord> {
  const { key, spec } = await wanted(daemon, request);
  await withOwnWords(daemon, key, async () => {
    // libxl has no word for `w!`; such a disk is written to the store here.
    if (options.xl !== undefined && spec.access !== 'w!') {
      await runXl(options.xl, ['block-attach', String(key.domid), printSpec(spec)]);
    } else {
      const { store } = daemon.world;
      const pv = (await store.read(`/libxl/${key.domid}/type`)) === 'pv';
      const protocol = pv ? { protocol: 'x86_64-abi' } : {};
      await attachDisk(store, spec, { ...placeOf(key, options), ...protocol });
    }
  });
  return daemon.disks.until(key, ATTACH_MS, (record) => record.published);
}

function placeOf({ domid, devid, kind }: DiskKey, options: VerbOptions): NodeOptions {
  const { scriptDir, ownDomid } = options;
  // The table has disks of the kinds that hand one to a guest, and no others.
  return { domid, devid, kind: kind as DiskKind, backendDomid: ownDomid, scriptDir };
}

/** What `attach` would do now, and why; nothing is changed. */
export async function dryRun(
  daemon: Daemon,
  request: AttachRequest,
): Promise<Answer<'POST /v1/dry-run'>> {
  const { key, spec } = await wanted(daemon, request);
  const { world } = daemon;
  const record: DiskRecord = newRecord(key);
  record.ours = true;
  record.nodes = {
    state: XenbusState.initialising,
    online: true,
    script: vbdScript,
    params: spec.target ?? '',
    mode: spec.access,
    directIoSafe: spec.directIoSafe,
    physicalDevice: undefined,
    hotplugStatus: undefined,
    discard: true,
  };
  const plan = await planWithLook(world, record);
  return { because: plan.because, steps: plan.steps.map(describeStep) };
}

async function planWithLook(
  world: DiskWorld,
  record: DiskRecord,
): Promise<ReturnType<typeof planDisk>> {
  const vms = vmBook(world.store);
  for (;;) {
    const look = lookAtTarget(world, record, vms);
    using _opened = look.opened;
    if (look.unknownDomids.length === 0) return planDisk(factsOf(world, record, look));
    await vms.learn(look.unknownDomids);
  }
}

/**
 * Detaches a disk and waits until it is gone from the store and from our hands.
 * @param force goes on when the guest does not let go of it
 * @throws Failure not-found | timeout
 */
export async function detach(
  daemon: Daemon,
  options: VerbOptions,
  guest: string,
  vdev: string,
  force: boolean,
): Promise<void> {
  const record = await findDisk(daemon, guest, vdev);
  const { key } = record;
  if (options.xl !== undefined) {
    const flags = force ? ['--force'] : [];
    await runXl(options.xl, ['block-detach', ...flags, String(key.domid), String(key.devid)]);
  } else {
    const { ownDomid } = options;
    await detachDisk(daemon.world.store, placeOf(key, options), { force, ownDomid });
  }
  await daemon.disks.call(key);
}

/**
 * Makes a disk as large as its file is, after growing the file to `sizeBytes` where that is given.
 * @returns the disk's new size in bytes
 * @throws Failure invalid when the disk would shrink; unsupported for a device
 */
export async function resize(
  daemon: Daemon,
  guest: string,
  vdev: string,
  sizeBytes: number | undefined,
): Promise<number> {
  const record = await findDisk(daemon, guest, vdev);
  const { held, key, path, ring } = record;
  if (ring !== undefined) return resizeRing(daemon.world, record, wantedSize(sizeBytes));
  if (held === undefined)
    throw new Failure('gone', `${vdev} of ${guest} has no device — vbd why says why`);
  if (held.nbd !== undefined) {
    return resizeImage(daemon.world, record, wantedSize(sizeBytes));
  }
  const { member } = held.facts;
  if (held.loop === undefined) {
    const advice = 'resize it where it is made (lvextend), the guest sees it at its next request';
    throw new Failure('unsupported', `${member.path} is a block device — ${advice}`);
  }
  if (sizeBytes !== undefined) growFile(member.path, member.identity, sizeBytes);
  held.loop.refreshCapacity();
  // blkback looks at the size when a request comes; a write of the same state wakes the guest too.
  const state = await daemon.world.store.read(`${path}/state`);
  if (state === undefined) throw new Failure('gone', `${vdev} of domain ${key.domid} is gone`);
  return deviceSizeBytes(held.loop.fd);
}

function wantedSize(sizeBytes: number | undefined): number {
  if (sizeBytes !== undefined) return sizeBytes;
  throw new Failure('invalid', 'the disk is an image — say how large it is to be');
}

function growFile(path: string, identity: string, sizeBytes: number): void {
  if (sizeBytes % SECTOR_BYTES !== 0) {
    throw new Failure(
      'invalid',
      `${sizeBytes} is not a whole number of ${SECTOR_BYTES}-byte sectors`,
    );
  }
  using target = openTarget(path, 'w');
  if (target.member.identity !== identity) {
    throw new Failure('gone', `${path} is another file than the one that is attached`);
  }
  if (sizeBytes < target.facts.sizeBytes) {
    const advice = 'a disk can only grow while it is attached';
    throw new Failure('invalid', `${path} has ${target.facts.sizeBytes} bytes — ${advice}`);
  }
  ftruncateSync(target.fd.number, sizeBytes);
}

/** The disk that an admin names by guest and vdev (a name or a number). @throws Failure not-found */
export async function findDisk(daemon: Daemon, guest: string, vdev: string): Promise<DiskRecord> {
  const domid = await resolveGuest(daemon.world.store, guest);
  const devid = vdevNumber(vdev);
  for (const record of daemon.disks.records.values()) {
    const { key } = record;
    if (key.domid === domid && key.devid === devid) return record;
  }
  throw new Failure('not-found', `guest ${guest} has no disk ${vdev} — see vbd list`, { domid });
}

/** What vbdkit itself refused is told in its own words, not in those of whoever passed them on. */
async function withOwnWords(
  daemon: Daemon,
  key: DiskKey,
  work: () => Promise<void>,
): Promise<void> {
  let refusal: Failure | undefined;
  using _listener = daemon.disks.onChange((record) => {
    if (record.path === backendPath(key)) refusal = record.outcome?.refusal ?? refusal;
  });
  try {
    await work();
  } catch (thrown) {
    throw refusal ?? thrown;
  }
}

async function runXl(xl: string, args: string[]): Promise<void> {
  try {
    await promisify(execFile)(xl, args, { timeout: XL_MS });
  } catch (thrown) {
    const stderr = thrown instanceof Error && 'stderr' in thrown ? String(thrown.stderr) : '';
    const said = stderr.trim().split('\n').at(-1) ?? '';
    throw new Failure('io', `xl ${args.join(' ')} did not succeed: ${said}`, {}, thrown);
  }
}
