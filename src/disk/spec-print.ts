/** Writes a disk as a specification that reads back as the same disk, and as libxl's own fields. */
import { Failure } from '../base/failure.ts';
import type { Dialect, DiskSpec } from './spec.ts';
import { vdevNumber } from './vdev.ts';

/**
 * A specification in one part: what was said, by name, `target=` last.
 * @throws Failure invalid when a value holds what no specification can say: a comma (but for the
 *   target), a newline or a NUL
 */
export function printSpec(spec: DiskSpec): string {
  const words = [
    `format=${libxlFormat(spec)}`,
    keyed('vdev', spec.vdev),
    `access=${spec.access}`,
    spec.cdrom ? 'cdrom' : undefined,
    keyed('backend', spec.backend),
    keyed('backendtype', spec.backendType),
    keyed('script', spec.script),
    spec.directIoSafe ? 'direct-io-safe' : undefined,
    flag(spec.discard, 'discard', 'no-discard'),
    flag(spec.trusted, 'trusted', 'untrusted'),
    keyed('specification', spec.specification),
    flag(spec.grantUsage, 'grant_usage=1', 'grant_usage=0'),
    flag(spec.colo, 'colo', 'no-colo'),
    keyed('colo-host', spec.coloHost),
    keyed('colo-port', spec.coloPort),
    keyed('colo-export', spec.coloExport),
    keyed('active-disk', spec.activeDisk),
    keyed('hidden-disk', spec.hiddenDisk),
    // One comma at the very end of a specification is dropped.
    keyed('target', spec.target?.replace(/,$/, ',,')),
  ];
  return words.filter((word) => word !== undefined).join(',');
}

function flag(value: boolean | undefined, yes: string, no: string): string | undefined {
  return value === undefined ? undefined : value ? yes : no;
}

function keyed(key: string, value: string | number | undefined): string | undefined {
  if (value === undefined) return undefined;
  if (/[\0\n]/.test(String(value)) || (key !== 'target' && String(value).includes(','))) {
    throw new Failure(
      'invalid',
      `${key} holds a comma, a newline or a NUL, and no disk specification can say that — choose another name`,
    );
  }
  return `${key}=${value}`;
}

/** libxl's name of the format: it says qcow where vbdkit says qcow1. */
function libxlFormat(spec: DiskSpec): string {
  return spec.format === 'qcow1' ? 'qcow' : spec.format;
}

/**
 * The disk under libxl's field names and with its values, for `--json`. Beside them `devid`, the
 * vdev's number (null when it names no device). The fields of colo are there when one of them is set.
 */
export function libxlFields(
  spec: DiskSpec,
  dialect: Dialect = 'vbdkit',
): Record<string, string | number | boolean | null> {
  const colo = {
    colo_host: spec.coloHost ?? null,
    colo_port: spec.coloPort ?? 0,
    colo_export: spec.coloExport ?? null,
    active_disk: spec.activeDisk ?? null,
    hidden_disk: spec.hiddenDisk ?? null,
  };
  return {
    target: spec.target ?? null,
    vdev: spec.vdev,
    devid: vdevNumber(spec.vdev, dialect) ?? null,
    format: libxlFormat(spec),
    backendtype: spec.backendType ?? 'unknown',
    backend: spec.backend ?? null,
    script: spec.script ?? null,
    removable: spec.cdrom ? 1 : 0,
    readwrite: spec.access === 'r' ? 0 : 1,
    is_cdrom: spec.cdrom ? 1 : 0,
    direct_io_safe: spec.directIoSafe,
    discard_enable: choice(spec.discard),
    colo_enable: choice(spec.colo),
    ...(Object.values(colo).some(Boolean) ? colo : {}),
    specification: spec.specification ?? 'unknown',
    transport: 'unknown',
    irq: 0,
    base: 0,
    trusted: choice(spec.trusted),
    grant_usage: choice(spec.grantUsage),
  };
}

function choice(value: boolean | undefined): string {
  return value === undefined ? 'default' : String(value);
}
