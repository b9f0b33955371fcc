/** One disk as its owner described it: the value that a disk specification stands for. */
import { Failure } from '../base/failure.ts';
import { type ImageFormat, imageFormats } from '../image/formats.ts';
import type { Mode } from './identity.ts';

/**
 * Whose words a specification may use: those of stock libxl, or vbdkit's, which adds the formats
 * vmdk, vhdx and qcow1, and an empty `script=` for «none».
 */
export type Dialect = 'xl' | 'vbdkit';

/** `qed` is known to libxl alone; `empty` is a drive with no medium in it. */
export type SpecFormat = ImageFormat | 'qed' | 'empty';

export type BackendType = 'phy' | 'tap' | 'qdisk' | 'standalone';

/**
 * A disk as specified: fields mean what libxl's of that name mean. Undefined is «not said»: libxl
 * or the host chooses.
 */
export interface DiskSpec {
  /** A path, or what `script` makes of it; undefined when none was given, empty when given empty. */
  readonly target: string | undefined;
  readonly format: SpecFormat;
  /** The name as written, which need not be a good one: see `parseVdev`. */
  readonly vdev: string;
  /** Always `r` for a cdrom. `w!` is not a word of specifications: `vbd attach --shared` sets it. */
  readonly access: Mode;
  /** A cdrom is also what libxl calls removable. */
  readonly cdrom: boolean;
  /** Name or number of the backend's domain; undefined is the toolstack's own. */
  readonly backend: string | undefined;
  readonly backendType: BackendType | undefined;
  /** Name or path of the hotplug script; empty is «none». */
  readonly script: string | undefined;
  readonly directIoSafe: boolean;
  readonly discard: boolean | undefined;
  readonly trusted: boolean | undefined;
  readonly specification: 'xen' | 'virtio' | undefined;
  readonly grantUsage: boolean | undefined;
  readonly colo: boolean | undefined;
  readonly coloHost: string | undefined;
  readonly coloPort: number | undefined;
  readonly coloExport: string | undefined;
  readonly activeDisk: string | undefined;
  readonly hiddenDisk: string | undefined;
}

/** Where the bytes of a disk are, and how they are laid out there. */
export interface ImagePlace {
  readonly format: ImageFormat;
  readonly path: string;
}

/** The name of the script by which stock libxl hands a disk of any format to vbdkit. */
export const vbdScript = 'block-vbd';

/** Formats with which stock libxl hands any target to a script: as kind vbd, and as kind vbd3. */
const carriers: readonly SpecFormat[] = ['raw', 'vhd'];

/** True when the disk's script is vbdkit's own: then the target is `FORMAT:PATH`. */
export function isVbdScript(script: string | undefined): boolean {
  return script?.split('/').at(-1) === vbdScript;
}

/**
 * The image of a disk that vbdkit itself opens: with no script, `format` and `target`; under
 * `script=block-vbd`, what the target says (`vmdk:/srv/a.vmdk`; without a prefix, raw). Undefined
 * for an empty drive, and for a script of others, which alone knows what its target means.
 * @throws Failure invalid when the prefix is no format, contradicts `format`, or is all there is
 * @throws Failure unsupported for a format that vbdkit does not serve
 */
export function imageOf(
  spec: Pick<DiskSpec, 'format' | 'target' | 'script'>,
): ImagePlace | undefined {
  if (spec.format === 'empty' || spec.target === undefined) return undefined;
  if (spec.format === 'qed') {
    throw new Failure(
      'unsupported',
      `vbdkit does not serve qed images — convert ${spec.target} to qcow2 with qemu-img`,
    );
  }
  if (!spec.script) return imagePlace(spec.format, spec.target);
  if (!isVbdScript(spec.script)) return undefined;
  const prefix = /^([a-z][a-z0-9+.-]*):(.*)$/is.exec(spec.target);
  if (prefix === null) return imagePlace(spec.format, spec.target);
  const format = imageFormats.find((format) => format === prefix[1]);
  if (format === undefined) {
    throw new Failure(
      'invalid',
      `${prefix[1]} in the target ${spec.target} is not a format — use one of ${imageFormats.join(', ')}, or raw:${spec.target} if that is the file's name`,
    );
  }
  if (!carriers.includes(spec.format) && spec.format !== format) {
    throw new Failure(
      'invalid',
      `the target ${spec.target} says ${format}, but format says ${spec.format} — keep one`,
    );
  }
  return imagePlace(format, prefix[2] ?? '');
}

function imagePlace(format: ImageFormat, target: string): ImagePlace {
  if (target === '') {
    throw new Failure('invalid', 'the target is empty — name a file or a block device');
  }
  return { format, path: target.startsWith('/') ? target : `/dev/${target}` };
}

/**
 * The same disk as stock libxl can carry it to vbdkit: `script=block-vbd`, format raw, and the
 * image's own format in the target. An empty drive, and a disk with another's script, stay as
 * they are.
 * @throws Failure as {@link imageOf}
 */
export function viaVbdScript(spec: DiskSpec): DiskSpec {
  const image = imageOf(spec);
  if (image === undefined) return spec;
  const target = image.format === 'raw' ? image.path : `${image.format}:${image.path}`;
  const script = isVbdScript(spec.script) ? spec.script : vbdScript;
  return { ...spec, format: 'raw', script, target };
}
