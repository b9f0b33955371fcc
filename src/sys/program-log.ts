/** The log of a program: entries with fields where its words go to the journal, else lines on standard error. */
import { journalFields, type Level, lineLog, type Log, reaches } from '../base/log.ts';
import { openJournal, saysToJournal } from './journal.ts';

/** @param name the program's, by which the journal has it */
export function programLog(
  name: string,
  env: Readonly<Record<string, string | undefined>>,
  most: Level = 'info',
): Log {
  const toJournal = saysToJournal(env);
  const line = lineLog((text) => process.stderr.write(text), toJournal, most);
  if (!toJournal) return line;
  const journal = openJournal();
  return (level, sentence, fields = {}) => {
    if (!reaches(level, most)) return;
    const entry = { SYSLOG_IDENTIFIER: name, ...journalFields(level, sentence, fields) };
    if (!journal.send(entry)) line(level, sentence, fields);
  };
}
