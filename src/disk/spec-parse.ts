/**
 * Reads a disk specification, xl-disk-configuration(5): the words of one or several parts, in
 * order, fill in one disk; defaults come last.
 */
import type { Failure } from '../base/failure.ts';
import type { Dialect, DiskSpec } from './spec.ts';
import { type Place, specFailure } from './spec-failure.ts';
import { type SpecFlag, type SpecKey, specWords } from './spec-lexer.ts';
import { accessOf, backendTypes, choose, formatOf, portOf } from './spec-values.ts';

type Fields = { -readonly [K in keyof DiskSpec]?: DiskSpec[K] };

/** A disk while its words are being read. */
interface Draft {
  readonly dialect: Dialect;
  readonly fields: Fields;
  /** A deprecated prefix was seen: no positional value is a format any more. */
  hadPrefix: boolean;
  /** The fourth positional value was seen; `access=` does not count. */
  hadAccess: boolean;
}

/**
 * Reads a disk from its parts (several arguments make one disk, as `xl block-attach` has it).
 * The qcow of libxl and qcow1 are one format, called qcow1 here.
 * @throws Failure invalid, with facts `{part, column, near}`: see `renderSpecFailure`
 */
export function parseSpec(parts: readonly string[], dialect: Dialect = 'vbdkit'): DiskSpec {
  const draft: Draft = { dialect, fields: {}, hadPrefix: false, hadAccess: false };
  for (const [index, text] of parts.entries()) {
    for (const word of specWords(text, index + 1)) {
      if (word.kind === 'prefix') draft.hadPrefix = true;
      else if (word.kind === 'flag') setFlag(draft.fields, word.flag);
      else if (word.kind === 'key') setKey(draft, word.key, word.text, word.place);
      else setPositional(draft, word.text, word.place);
    }
  }
  const last = Math.max(1, parts.length);
  return finish(draft.fields, {
    part: last,
    column: (parts[last - 1]?.length ?? 0) + 1,
    near: '',
  });
}

const unsaid = {
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
} as const;

/** Defaults that need the whole disk to be known. */
function finish(fields: Fields, end: Place): DiskSpec {
  if (fields.vdev === undefined) {
    throw specFailure('the disk has no vdev — name the virtual device, as in vdev=xvda', end);
  }
  const cdrom = fields.cdrom ?? false;
  if (fields.target === undefined && !cdrom) {
    throw specFailure(
      'the disk has no target and is no cdrom — name a file or a block device last, as in target=/srv/a.img',
      end,
    );
  }
  return {
    ...unsaid,
    ...fields,
    target: fields.target,
    format: cdrom && !fields.target ? 'empty' : (fields.format ?? 'raw'),
    vdev: fields.vdev,
    access: cdrom ? 'r' : (fields.access ?? 'w'),
    cdrom,
  };
}

function setFlag(fields: Fields, flag: SpecFlag): void {
  if (flag === 'cdrom') fields.cdrom = true;
  else if (flag === 'direct-io-safe') fields.directIoSafe = true;
  else if (flag === 'discard' || flag === 'no-discard') fields.discard = flag === 'discard';
  else if (flag === 'colo' || flag === 'no-colo') fields.colo = flag === 'colo';
  else fields.trusted = flag === 'trusted';
}

function setKey(draft: Draft, key: SpecKey, text: string, place: Place): void {
  const { fields, dialect } = draft;
  switch (key) {
    case 'target':
    case 'vdev':
    case 'backend':
      return setText(fields, key, key, text, place);
    case 'script':
      if (text === '' && dialect === 'xl') {
        throw specFailure(
          'stock libxl knows no empty script — name one, or leave script= out for its own',
          place,
        );
      }
      return setText(fields, key, key, text, place);
    case 'colo-host':
      return setText(fields, 'coloHost', key, text, place);
    case 'colo-export':
      return setText(fields, 'coloExport', key, text, place);
    case 'active-disk':
      return setText(fields, 'activeDisk', key, text, place);
    case 'hidden-disk':
      return setText(fields, 'hiddenDisk', key, text, place);
    case 'format':
      return setFormat(fields, dialect, text, place);
    case 'access':
      fields.access = accessOf(dialect, text, place, draft.hadPrefix);
      return;
    case 'devtype':
      fields.cdrom = choose(key, { cdrom: true, disk: false }, text, place);
      return;
    case 'backendtype':
      return setChoice(fields, 'backendType', key, choose(key, backendTypes, text, place), place);
    case 'specification': {
      const choice = choose(key, { xen: 'xen', virtio: 'virtio' } as const, text, place);
      return setChoice(fields, 'specification', key, choice, place);
    }
    case 'grant_usage':
      fields.grantUsage = choose(key, { 0: false, 1: true }, text, place);
      return;
    case 'colo-port':
      fields.coloPort = portOf(text, place);
  }
}

/** A value without a key is the first of target, format, vdev and access that is still open. */
function setPositional(draft: Draft, text: string, place: Place): void {
  const { fields } = draft;
  if (fields.target === undefined) {
    setText(fields, 'target', 'target', text, place);
  } else if (fields.format === undefined && !draft.hadPrefix) {
    const isVdevAndType = fields.target === '' && text.includes(':');
    if (!isVdevAndType) return setFormat(fields, draft.dialect, text, place);
    fields.format = 'empty';
    setVdevAndType(fields, text, place);
  } else if (fields.vdev === undefined) {
    setVdevAndType(fields, text, place);
  } else if (!draft.hadAccess) {
    draft.hadAccess = true;
    fields.access = accessOf(draft.dialect, text, place, draft.hadPrefix);
  } else {
    throw specFailure(
      `${text || 'an empty value'} is one value too many — target, format, vdev and access are all given; a target with commas goes last, as target=…`,
      place,
    );
  }
}

/** The deprecated `hdc:cdrom` in the vdev's place; the last colon separates. */
function setVdevAndType(fields: Fields, text: string, place: Place): void {
  const colon = text.lastIndexOf(':');
  if (colon === -1) return setText(fields, 'vdev', 'vdev', text, place);
  const type = text.slice(colon + 1);
  const typePlace = { ...place, column: place.column + colon + 1, near: type };
  fields.cdrom = choose('the type after a vdev', { cdrom: true, disk: false }, type, typePlace);
  setText(fields, 'vdev', 'vdev', text.slice(0, colon), { ...place, near: text.slice(0, colon) });
}

type TextField =
  | 'target'
  | 'vdev'
  | 'backend'
  | 'script'
  | 'coloHost'
  | 'coloExport'
  | 'activeDisk'
  | 'hiddenDisk';

/** An empty text may be replaced, and no other: not even by itself. */
function setText(fields: Fields, field: TextField, key: string, text: string, place: Place): void {
  const before = fields[field];
  if (before) throw respecified(key, before, text, place);
  fields[field] = text;
}

/** A choice may be repeated, but not changed. */
function setChoice<F extends 'format' | 'backendType' | 'specification'>(
  fields: Fields,
  field: F,
  key: string,
  value: NonNullable<Fields[F]>,
  place: Place,
): void {
  const before = fields[field];
  if (before !== undefined && before !== value) throw respecified(key, before, place.near, place);
  fields[field] = value;
}

function setFormat(fields: Fields, dialect: Dialect, text: string, place: Place): void {
  setChoice(fields, 'format', 'format', formatOf(dialect, text, place), place);
}

function respecified(key: string, before: string, text: string, place: Place): Failure {
  return specFailure(
    `${key} is given twice, as ${before} and as ${text || 'nothing'} — keep one`,
    place,
  );
}
