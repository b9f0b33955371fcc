/** What the values of a disk specification's keys may be, and what each means. */
import type { Failure } from '../base/failure.ts';
import type { Mode } from './identity.ts';
import type { BackendType, Dialect, SpecFormat } from './spec.ts';
import { type Place, specFailure } from './spec-failure.ts';
import { vdevNumber } from './vdev.ts';

const libxlFormats: Readonly<Record<string, SpecFormat>> = {
  raw: 'raw',
  qcow: 'qcow1',
  qcow2: 'qcow2',
  vhd: 'vhd',
  qed: 'qed',
  empty: 'empty',
};

const formats: Readonly<Record<Dialect, Readonly<Record<string, SpecFormat>>>> = {
  xl: libxlFormats,
  vbdkit: { ...libxlFormats, qcow1: 'qcow1', vmdk: 'vmdk', vhdx: 'vhdx' },
};

const libxlAccess: Readonly<Record<string, Mode>> = { r: 'r', ro: 'r', w: 'w', rw: 'w' };

const accesses: Readonly<Record<Dialect, Readonly<Record<string, Mode>>>> = {
  xl: libxlAccess,
  vbdkit: libxlAccess,
};

export const backendTypes: Readonly<Record<string, BackendType>> = {
  phy: 'phy',
  qdisk: 'qdisk',
  tap: 'tap',
  standalone: 'standalone',
};

/** @throws Failure invalid */
export function formatOf(dialect: Dialect, text: string, place: Place): SpecFormat {
  const format = text === '' ? 'raw' : lookUp(formats[dialect], text);
  if (format !== undefined) return format;
  const hint =
    vdevNumber(text) === undefined ? undefined : `the format stands before the vdev: ,,${text}`;
  throw unknownWord('format', formats, dialect, text, place, hint);
}

/**
 * @param afterPrefix a deprecated prefix was seen, after which people often write a format too
 * @throws Failure invalid
 */
export function accessOf(dialect: Dialect, text: string, place: Place, afterPrefix: boolean): Mode {
  const access = text === '' ? 'w' : lookUp(accesses[dialect], text);
  if (access !== undefined) return access;
  const hint =
    afterPrefix && vdevNumber(text) !== undefined
      ? 'after a prefix such as file: no format is expected; leave the prefix or the format out'
      : undefined;
  throw unknownWord('access', accesses, dialect, text, place, hint);
}

function unknownWord(
  what: string,
  known: Readonly<Record<Dialect, Readonly<Record<string, unknown>>>>,
  dialect: Dialect,
  text: string,
  place: Place,
  hint: string | undefined,
): Failure {
  const others = `use ${Object.keys(known[dialect]).join(', ')}`;
  return Object.hasOwn(known.vbdkit, text)
    ? specFailure(`stock libxl does not know the ${what} ${text} — ${others}`, place)
    : specFailure(`there is no ${what} ${text} — ${hint ?? others}`, place);
}

/**
 * What `choices` has for `text`.
 * @throws Failure invalid
 */
export function choose<T>(
  key: string,
  choices: Readonly<Record<string, T>>,
  text: string,
  place: Place,
): T {
  const choice = lookUp(choices, text);
  if (choice !== undefined) return choice;
  const given = text === '' ? 'is empty' : `cannot be ${text}`;
  throw specFailure(`${key} ${given} — use ${Object.keys(choices).join(' or ')}`, place);
}

/** @throws Failure invalid */
export function portOf(text: string, place: Place): number {
  const port = /^[0-9]+$/.test(text) ? Number(text) : 0;
  if (port >= 1 && port <= 65_535) return port;
  throw specFailure(`colo-port cannot be ${text || 'empty'} — use a number from 1 to 65535`, place);
}

function lookUp<T>(table: Readonly<Record<string, T>>, name: string): T | undefined {
  return Object.hasOwn(table, name) ? table[name] : undefined;
}
