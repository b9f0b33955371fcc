/** What `-o` says of a new image: qemu-img's grammar, each name held against those the format knows. */
import { Failure } from '../base/failure.ts';
import { parseSize } from '../base/units.ts';
import type { CreateOption, Format, ImageFormat } from './formats.ts';

/** What every format is asked for, and the format's own. */
export interface NewImageOptions {
  readonly sizeBytes?: number | undefined;
  readonly backingFile?: string | undefined;
  readonly backingFormat?: string | undefined;
  readonly own: Readonly<Record<string, string>>;
}

const common: readonly CreateOption[] = [
  { name: 'size', says: 'size of the disk' },
  { name: 'backing_file', says: 'the parent' },
  { name: 'backing_fmt', says: 'format of the parent' },
];

/**
 * Reads `name=value,name=value`; a comma in a value is written twice. A name without a value is on.
 * @throws Failure invalid
 */
export function parseOptions(texts: readonly string[], format: Format): NewImageOptions {
  const given = new Map<string, string>();
  for (const text of texts) {
    for (const part of text.split(/(?<!,)(?:,,)*,(?!,)/)) {
      if (part === '') continue;
      const [, name = '', value = 'on'] = /^([^=]*)(?:=(.*))?$/s.exec(part) ?? [];
      given.set(name, value.replaceAll(',,', ','));
    }
  }
  const take = (name: string): string | undefined => {
    const value = given.get(name);
    given.delete(name);
    return value;
  };
  const size = take('size');
  const backingFile = take('backing_file');
  const backingFormat = take('backing_fmt');
  for (const [name, value] of given) requireKnown(format, name, value);
  return {
    sizeBytes: size === undefined ? undefined : parseSize(size),
    backingFile,
    backingFormat,
    own: Object.fromEntries(given),
  };
}

function requireKnown(format: Format, name: string, value: string): void {
  const option = format.options.find((option) => option.name === name);
  if (option === undefined) {
    const known = format.options.map((option) => option.name).join(', ') || 'none';
    throw new Failure('invalid', `${format.name} has no option ${name} — it has ${known}`);
  }
  if (option.values?.includes(value) === false) {
    const values = option.values.join(', ');
    throw new Failure('invalid', `${name} cannot be ${value} — it is one of ${values}`);
  }
}

/** A line per option, for `-o help`. */
export function describeOptions(format: Format): string {
  const line = ({ name, says, values }: CreateOption): string => {
    const choices = values === undefined ? '' : ` (${values.join(', ')})`;
    return `  ${name.padEnd(22)} ${says}${choices}\n`;
  };
  const all = [...format.options, ...common].filter(
    ({ name }) => format.hasParents || !name.startsWith('backing'),
  );
  return `Options of ${format.name}:\n${all.map(line).join('')}`;
}

/** True when the options are asked for, not given. */
export function asksForHelp(texts: readonly string[]): boolean {
  return texts.some((text) => text === 'help' || text === '?');
}

/** The option by which a format is asked for an image that is packed, and its value. */
const packedBy: Readonly<Partial<Record<ImageFormat, readonly [string, string]>>> = {
  vmdk: ['subformat', 'streamOptimized'],
};

/** Options with which the new image is packed. @throws Failure unsupported */
export function packedOptions(
  format: ImageFormat,
  options: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  const option = packedBy[format];
  if (option === undefined) {
    throw new Failure(
      'unsupported',
      `new ${format} images are not packed, only those of vmdk — leave -c out`,
    );
  }
  const [name, value] = option;
  if ((options[name] ?? value) !== value) {
    throw new Failure('invalid', `${name}=${options[name]} is not packed — leave -c or that out`);
  }
  return { ...options, [name]: value };
}
