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
    if (!reaches(level, most)) return;
    const tail = Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => ` ${name}=${value}`)
      .join('');
    const head = journal ? `<${priorities[level]}>` : level === 'info' ? '' : `${level}: `;
    write(`${head}${oneLine(sentence)}${oneLine(tail)}\n`);
  };
}

/** Whether what is that important is logged, where `most` is the least important that is. */
export function reaches(level: Level, most: Level): boolean {
  return priorities[level] <= priorities[most];
}

/** An entry of the journal, each value on one line: the sentence alone, and what it is about. */
export function journalFields(
  level: Level,
  sentence: string,
  fields: LogFields,
): Record<string, string | number> {
  const about = Object.entries(fields).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, oneLine(String(value))] as const],
  );
  const entry = { MESSAGE: oneLine(sentence), PRIORITY: priorities[level] };
  return { ...entry, ...Object.fromEntries(about) };
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
