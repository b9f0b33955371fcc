/**
 * The words of a disk specification, xl-disk-configuration(5). In each part, after blanks:
 *
 *     word    = prefix | ( key "=" value | flag | positional ) [ "," ]
 *     prefix  = deprecated ":"            and the next word follows at once
 *     value   = anything but ","          but target= takes the whole rest
 *     positional = anything but "," and "="
 *
 * Blanks before a word are skipped; those after it are part of it.
 */
import type { Failure } from '../base/failure.ts';
import { type Place, specFailure } from './spec-failure.ts';

export const specKeys = [
  'format',
  'vdev',
  'access',
  'devtype',
  'backend',
  'backendtype',
  'script',
  'specification',
  'grant_usage',
  'colo-host',
  'colo-port',
  'colo-export',
  'active-disk',
  'hidden-disk',
  'target',
] as const;
export type SpecKey = (typeof specKeys)[number];

export const specFlags = [
  'cdrom',
  'direct-io-safe',
  'discard',
  'no-discard',
  'colo',
  'no-colo',
  'trusted',
  'untrusted',
] as const;
export type SpecFlag = (typeof specFlags)[number];

/** Prefixes that older toolstacks needed, and the key that each stands for, if any. */
const prefixes: Readonly<Record<string, { key: 'format' | 'script'; value: string } | undefined>> =
  {
    raw: { key: 'format', value: 'raw' },
    qcow: { key: 'format', value: 'qcow' },
    qcow2: { key: 'format', value: 'qcow2' },
    vhd: { key: 'format', value: 'vhd' },
    iscsi: { key: 'script', value: 'block-iscsi' },
    nbd: { key: 'script', value: 'block-nbd' },
    enbd: { key: 'script', value: 'block-enbd' },
    drbd: { key: 'script', value: 'block-drbd' },
    tapdisk: undefined,
    tap: undefined,
    tap2: undefined,
    aio: undefined,
    ioemu: undefined,
    file: undefined,
    phy: undefined,
  };

export type SpecWord =
  | { readonly kind: 'key'; readonly key: SpecKey; readonly text: string; readonly place: Place }
  | { readonly kind: 'flag'; readonly flag: SpecFlag }
  | { readonly kind: 'prefix' }
  | { readonly kind: 'positional'; readonly text: string; readonly place: Place };

/**
 * The words of one part, in order.
 * @param part which part it is, counted from 1
 * @throws Failure invalid at the first character that begins no word
 */
export function* specWords(text: string, part: number): Generator<SpecWord> {
  const place = (at: number, near: string): Place => ({ part, column: at + 1, near });
  let at = blanks(text, 0);
  while (at < text.length) {
    const prefix = prefixAt(text, at);
    if (prefix !== undefined) {
      const here = place(at, `${prefix}:`);
      if (!Object.hasOwn(prefixes, prefix)) throw unknownPrefix(prefix, here);
      const meaning = prefixes[prefix];
      yield { kind: 'prefix' };
      if (meaning) yield { kind: 'key', key: meaning.key, text: meaning.value, place: here };
      at = blanks(text, at + prefix.length + 1);
      continue;
    }
    const key = /[a-z][a-z0-9_-]*(?==)/y;
    key.lastIndex = at;
    const name = key.exec(text)?.[0];
    const from = name === undefined ? at : at + name.length + 1;
    const word = name === 'target' ? rest(text, from) : upToComma(text, from);
    if (name !== undefined) {
      yield keyWord(name, word, place(at, name), place(from, word));
    } else {
      yield bareWord(word, place(at, word));
    }
    at = blanks(text, from + word.length + 1);
  }
}

function keyWord(name: string, text: string, namePlace: Place, place: Place): SpecWord {
  const key = specKeys.find((key) => key === name);
  if (key !== undefined) return { kind: 'key', key, text: clean(text, place), place };
  if (specFlags.some((flag) => flag === name)) {
    throw specFailure(`${name} takes no value — write ${name} alone`, namePlace);
  }
  throw specFailure(
    `there is no parameter ${name} — the parameters are ${specKeys.join(', ')}; a target with = in it goes last, as target=…`,
    namePlace,
  );
}

function bareWord(text: string, place: Place): SpecWord {
  const flag = specFlags.find((flag) => flag === text);
  if (flag !== undefined) return { kind: 'flag', flag };
  const equals = text.indexOf('=');
  if (equals !== -1) {
    const before =
      equals === 0 ? 'no parameter stands' : `${text.slice(0, equals)} is no parameter`;
    throw specFailure(`${before} before = — a target with = in it goes last, as target=…`, {
      ...place,
      column: place.column + equals,
      near: '=',
    });
  }
  return { kind: 'positional', text: clean(text, place), place };
}

/** Neither can stand in xenstore, in a path given to a script, or in a line of a log. */
function clean(text: string, place: Place): string {
  const at = text.search(/[\0\n]/);
  if (at === -1) return text;
  const name = text[at] === '\0' ? 'a NUL character' : 'a newline';
  throw specFailure(`a value holds ${name} — disks and files with such names cannot be used`, {
    ...place,
    column: place.column + at,
    near: text[at] ?? '',
  });
}

/**
 * The name before a colon at `at` where it counts as a prefix. A name that is no known prefix
 * counts only before something that is not a small letter or digit: `nfs:/x` does, `host:9000`
 * is an ordinary value.
 */
function prefixAt(text: string, at: number): string | undefined {
  const pattern = /([a-z][a-z0-9]*):(?=([^a-z0-9]|$)|)/y;
  pattern.lastIndex = at;
  const match = pattern.exec(text);
  const name = match?.[1];
  if (name === undefined) return undefined;
  return Object.hasOwn(prefixes, name) || match?.[2] !== undefined ? name : undefined;
}

function unknownPrefix(prefix: string, place: Place): Failure {
  const known = Object.keys(prefixes).join(', ');
  return specFailure(
    `${prefix}: is no prefix that a disk may have — the prefixes are ${known}; a format goes as format=…, a target with a colon last, as target=…`,
    place,
  );
}

function blanks(text: string, at: number): number {
  let end = at;
  while (end < text.length && ' \t\n'.includes(text[end] ?? '')) end++;
  return end;
}

function upToComma(text: string, from: number): string {
  const comma = text.indexOf(',', from);
  return text.slice(from, comma === -1 ? undefined : comma);
}

/** Everything that is left, but for one comma at the very end. */
function rest(text: string, from: number): string {
  return text.slice(from, text.endsWith(',') && text.length > from ? -1 : undefined);
}
