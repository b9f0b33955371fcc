/**
 * Virtual device names and their numbers (`xvda`, `hdc2`, `sda`, `d3p1`, `51712`):
 * xen-vbd-interface(7).
 */
import { Failure } from '../base/failure.ts';
import type { Dialect } from './spec.ts';

/** A virtual device: its number, and the disk and partition it stands for where the name says so. */
export interface Vdev {
  /** The number that names the device's nodes in xenstore. */
  readonly number: number;
  /** Counted from 0; undefined for a plain number, which says neither. */
  readonly disk?: number;
  /** 0 is the whole disk. */
  readonly partition?: number;
}

interface Scheme {
  readonly disks: number;
  readonly partitions: number;
  number(disk: number, partition: number): number;
}

const xvdMajor = 202;
const sdMajor = 8;
const ideMajors = [3, 22] as const;
const extended = 1 << 28;
const largestNumber = 0x7fff_ffff;

const xvd: Scheme = {
  disks: 1 << 20,
  partitions: 256,
  number: (disk, partition) =>
    disk < 16 && partition < 16
      ? (xvdMajor << 8) | (disk << 4) | partition
      : extended | (disk << 8) | partition,
};

const schemes: Readonly<Record<string, Scheme>> = {
  xvd,
  hd: {
    disks: 4,
    partitions: 64,
    number: (disk, partition) =>
      ((disk < 2 ? ideMajors[0] : ideMajors[1]) << 8) | ((disk & 1) << 6) | partition,
  },
  sd: {
    disks: 16,
    partitions: 16,
    number: (disk, partition) => (sdMajor << 8) | (disk << 4) | partition,
  },
};

/** A whole number as C reads it with base 0: decimal, `0x` hexadecimal, or octal after a 0. */
const integer = '0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*';
const plainName = new RegExp(`^(?:${integer})$`);
const numberedName = new RegExp(`^d(${integer})(?:p(${integer}))?$`);
const letteredName = /^(xvd|hd|sd)([a-z]+)([1-9][0-9]*)?$/;

/**
 * Reads a virtual device name in any of its forms. `d3` is `d3p0`, as xen-vbd-interface(7) has it;
 * the dialect `xl` does not take it, for libxl does not, but takes the empty name for number 0.
 * What libxl takes by accident is refused: `xvd`, `d-1p0`, signs and blanks before a number.
 * @throws Failure invalid
 */
export function parseVdev(name: string, dialect: Dialect = 'vbdkit'): Vdev {
  const vdev = vdevOf(name, dialect);
  if (vdev !== undefined) return vdev;
  throw new Failure(
    'invalid',
    `${name === '' ? 'an empty vdev' : `the vdev ${name}`} names no virtual device — write xvda to xvdz and on, hda to hdd, sda to sdp, d0p0, or a number`,
    { vdev: name },
  );
}

/** The number of a name, or undefined where {@link parseVdev} throws. */
export function vdevNumber(name: string, dialect: Dialect = 'vbdkit'): number | undefined {
  return vdevOf(name, dialect)?.number;
}

function vdevOf(name: string, dialect: Dialect): Vdev | undefined {
  return plainVdev(name, dialect) ?? numberedVdev(name, dialect) ?? letteredVdev(name);
}

/**
 * The name of a number, such that `parseVdev` of it gives the number again. A number that no
 * lettered name has is its own name. (libxl says `xvd` for every number, so that its name for
 * hdc, 5632, is that of another device.)
 */
export function vdevName(number: number): string {
  for (const [prefix, scheme] of Object.entries(schemes)) {
    const place = placeOf(number, prefix);
    if (place === undefined || scheme.number(place.disk, place.partition) !== number) continue;
    return `${prefix}${letters(place.disk)}${place.partition === 0 ? '' : place.partition}`;
  }
  return String(number);
}

function placeOf(number: number, prefix: string): { disk: number; partition: number } | undefined {
  const major = number >>> 8;
  const minor = number & 0xff;
  if (prefix === 'xvd') {
    if (number >= extended && number < extended * 2) {
      return { disk: (number - extended) >>> 8, partition: minor };
    }
    return major === xvdMajor ? { disk: minor >> 4, partition: minor & 15 } : undefined;
  }
  if (prefix === 'sd') {
    return major === sdMajor ? { disk: minor >> 4, partition: minor & 15 } : undefined;
  }
  const channel = ideMajors.findIndex((ide) => ide === major);
  if (channel === -1 || minor > 127) return undefined;
  return { disk: channel * 2 + (minor >> 6), partition: minor & 63 };
}

function plainVdev(name: string, dialect: Dialect): Vdev | undefined {
  if (name === '' && dialect === 'xl') return { number: 0 };
  const number = plainName.test(name) ? readInteger(name) : NaN;
  return number <= largestNumber ? { number } : undefined;
}

function numberedVdev(name: string, dialect: Dialect): Vdev | undefined {
  const match = numberedName.exec(name);
  if (match === null || (match[2] === undefined && dialect === 'xl')) return undefined;
  return vdevIn(xvd, readInteger(match[1] ?? ''), readInteger(match[2] ?? '0'));
}

function letteredVdev(name: string): Vdev | undefined {
  const match = letteredName.exec(name);
  const scheme = schemes[match?.[1] ?? ''];
  if (match === null || scheme === undefined) return undefined;
  return vdevIn(scheme, diskOfLetters(match[2] ?? ''), Number(match[3] ?? '0'));
}

function vdevIn(scheme: Scheme, disk: number, partition: number): Vdev | undefined {
  if (disk >= scheme.disks || partition >= scheme.partitions) return undefined;
  return { number: scheme.number(disk, partition), disk, partition };
}

function readInteger(text: string): number {
  return /^0[0-7]/.test(text) ? Number.parseInt(text, 8) : Number(text);
}

/** a = 0, z = 25, aa = 26: bijective base 26, as Linux names its disks. */
function diskOfLetters(text: string): number {
  let disk = 0;
  for (const letter of text) disk = disk * 26 + (letter.charCodeAt(0) - 96);
  return disk - 1;
}

function letters(disk: number): string {
  const last = String.fromCharCode(97 + (disk % 26));
  return disk < 26 ? last : letters(Math.floor(disk / 26) - 1) + last;
}
