/** One line per event, a level and fields; to the journal with its `<N>` prefixes, or to a person. */

/** Syslog's numbers, as sd-daemon(3) prefixes them. */
const priorities = { error: 3, warning: 4, notice: 5, info: 6, debug: 7 } as const;

export type Level = keyof typeof priorities;
export type LogFields = Readonly<Record<string, string | number | undefined>>;
export type Log = (level: Level, sentence: string, fields?: LogFields) => void;

/**
 * A log that writes lines of at most `most` through `write`.
 * @param journal true prefixes each line with its priority in angle brackets, false with its level
 */
export function lineLog(
  write: (line: string) => void,
  journal: boolean,
  most: Level = 'info',
): Log {
  return (level, sentence, fields = {}) => {
    if (priorities[level] > priorities[most]) return;
    const tail = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => ` ${name}=${value}`)
      .join('');
    const head = journal ? `<${priorities[level]}>` : level === 'info' ? '' : `${level}: `;
    write(`${head}${oneLine(sentence)}${oneLine(tail)}\n`);
  };
}

/** A log that keeps nothing. */
export const silentLog: Log = () => {};

/** Names come from guests and images: control characters are shown, never sent to a terminal. */
export function oneLine(text: string): string {
  return text.replaceAll(
    /[\u0000-\u001f\u007f]/g,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}
