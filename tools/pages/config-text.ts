/** The file /etc/xen/vbdkit.conf as it is installed: every key with its default, commented out. */
import { configKeys, DEFAULT_CONFIG_PATH } from '../../src/daemon/config.ts';

const WIDTH = 98;

/** The file's text, made from the schema that reads it. */
export function defaultConfigText(): string {
  const head = [
    `# ${DEFAULT_CONFIG_PATH}: how vbdd works; vbdkit.conf(5) tells of it.`,
    '# A line that is commented out has the default. A change counts from the next start of vbdd:',
    '# guests keep their disks meanwhile.',
  ];
  const keys = configKeys().flatMap(({ name, description, default: value }) => [
    '',
    ...wrapped(description, WIDTH).map((line) => `# ${line}`),
    `#${name} = ${tomlOf(value)}`,
  ]);
  return `${[...head, ...keys].join('\n')}\n`;
}

/** Strings, numbers, booleans and lists of them are written in TOML as in JSON. */
export function tomlOf(value: unknown): string {
  return Array.isArray(value) ? `[${value.map(tomlOf).join(', ')}]` : JSON.stringify(value);
}

/** The words of a text on lines of less than `width` characters. */
export function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length >= width) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
