/** Which backend serves a disk, by the rules of libxl, and why not the others. */
import { Failure } from '../base/failure.ts';
import type { BackendType, DiskSpec } from './spec.ts';

/** What the target turned out to be; `unknown` where nobody could look. */
export type TargetKind = 'block' | 'file' | 'character' | 'other' | 'missing' | 'unknown';

export interface BackendFacts {
  readonly kind: TargetKind;
  /** The backend is not in the toolstack's own domain, so the target cannot be looked at. */
  readonly driverDomain: boolean;
  /** The guest has a device model, which a cdrom needs for changing media. */
  readonly hvm?: boolean;
  /** A character device is as good as a block device: FreeBSD's disks are. */
  readonly characterDisks?: boolean;
}

/** One backend, and why it does or does not fit. */
export interface Verdict {
  readonly backend: BackendType;
  readonly fits: boolean;
  readonly reason: string;
}

export interface BackendChoice {
  readonly backend: BackendType;
  /** The verdicts in the order in which they were asked for; the last one fits. */
  readonly verdicts: readonly Verdict[];
}

/** In libxl's order of preference. */
const backends: readonly BackendType[] = ['phy', 'qdisk', 'tap', 'standalone'];

/**
 * The first backend that fits; one that the specification names must fit by the same rules.
 * @throws Failure invalid when the specification contradicts itself or no backend fits
 * @throws Failure not-found when the target is needed and missing
 */
export function chooseBackend(spec: DiskSpec, facts: BackendFacts): BackendChoice {
  refuseEmpty(spec);
  const wanted = wantedBackends(spec, facts);
  if (needsTarget(spec, facts) && facts.kind === 'missing') {
    throw new Failure(
      'not-found',
      `${spec.target || 'the empty target'} does not exist — create it or correct the target`,
      { path: spec.target, vdev: spec.vdev },
    );
  }
  const verdicts: Verdict[] = [];
  for (const backend of wanted) {
    const verdict = judge(backend, spec, facts);
    verdicts.push(verdict);
    if (verdict.fits) return { backend, verdicts };
  }
  const reasons = verdicts.map(({ backend, reason }) => `${backend}: ${reason}`).join('; ');
  throw new Failure('invalid', `no backend fits ${spec.vdev} (${reasons}) — ${advice(spec)}`, {
    vdev: spec.vdev,
    path: spec.target,
  });
}

function refuseEmpty(spec: DiskSpec): void {
  if (spec.format !== 'empty') return;
  const facts = { vdev: spec.vdev, path: spec.target };
  if (!spec.cdrom) {
    const message = `${spec.vdev} is empty but no cdrom — give it a target, or devtype=cdrom`;
    throw new Failure('invalid', message, facts);
  }
  if (spec.target) {
    const message = `${spec.vdev} has the format empty and the target ${spec.target} — keep one`;
    throw new Failure('invalid', message, facts);
  }
}

function wantedBackends(spec: DiskSpec, facts: BackendFacts): readonly BackendType[] {
  if (!spec.cdrom || facts.hvm !== true) {
    return spec.backendType === undefined ? backends : [spec.backendType];
  }
  const backend = spec.backendType ?? 'qdisk';
  if (backend === 'qdisk' || backend === 'phy') return [backend];
  throw new Failure(
    'invalid',
    `the cdrom ${spec.vdev} of an HVM guest cannot have the backend ${backend} — use qdisk or phy`,
    { vdev: spec.vdev },
  );
}

function needsTarget(spec: DiskSpec, facts: BackendFacts): boolean {
  const looks = spec.backendType === undefined || /^(phy|standalone)$/.test(spec.backendType);
  return looks && spec.format !== 'empty' && !facts.driverDomain && !spec.script;
}

function judge(backend: BackendType, spec: DiskSpec, facts: BackendFacts): Verdict {
  const refusal = refusalOf(backend, spec, facts);
  return refusal === undefined
    ? { backend, fits: true, reason: fitOf(backend, spec, facts) }
    : { backend, fits: false, reason: refusal };
}

function refusalOf(backend: BackendType, spec: DiskSpec, facts: BackendFacts): string | undefined {
  const virtio = spec.specification === 'virtio';
  if (virtio && backend !== 'standalone') return 'virtio needs standalone';
  if (!virtio && backend === 'standalone') return 'only for specification=virtio';
  if (spec.colo === true && backend !== 'qdisk') return 'does not do colo';
  if (backend === 'qdisk') return refusalOfQdisk(spec);
  if (backend === 'tap') {
    return spec.format === 'raw' || spec.format === 'vhd'
      ? undefined
      : `cannot read the format ${spec.format}`;
  }
  if (backend === 'phy' && spec.format === 'empty') return undefined;
  if (spec.format !== 'raw') return `cannot read the format ${spec.format}`;
  if (spec.script && backend === 'standalone') return 'runs no script';
  if (facts.driverDomain || spec.script) return undefined;
  const disk =
    facts.kind === 'block' ||
    facts.kind === 'file' ||
    (facts.kind === 'character' && facts.characterDisks === true);
  return disk ? undefined : 'the target is neither a block device nor a regular file';
}

function refusalOfQdisk(spec: DiskSpec): string | undefined {
  if (spec.script) return 'runs no script';
  return spec.format === 'vmdk' || spec.format === 'vhdx'
    ? `libxl has no name for the format ${spec.format}`
    : undefined;
}

function fitOf(backend: BackendType, spec: DiskSpec, facts: BackendFacts): string {
  if (spec.format === 'empty') return 'the drive is empty';
  if (backend === 'qdisk' || backend === 'tap') return `reads the format ${spec.format}`;
  if (facts.driverDomain) return 'the driver domain looks at the target itself';
  if (spec.script) return `the script ${spec.script} makes a block device of the target`;
  return `the target is a ${facts.kind === 'file' ? 'regular file' : `${facts.kind} device`}`;
}

function advice(spec: DiskSpec): string {
  if (spec.specification === 'virtio') return 'leave specification=virtio out';
  if (spec.script && spec.format !== 'raw') {
    return 'a disk with a script has format=raw; what the target is, its own text tells the script';
  }
  if (spec.format === 'vmdk' || spec.format === 'vhdx') {
    return `write script=block-vbd,target=${spec.format}:${spec.target}`;
  }
  return spec.backendType === undefined
    ? 'use a block device or a regular file'
    : 'leave backendtype out';
}
