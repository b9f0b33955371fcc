/** What the lab tells the person at the terminal: one line each, on standard error. */

const started = Date.now();

/** One line with the seconds since the command began. */
export function say(sentence: string): void {
  const seconds = ((Date.now() - started) / 1000).toFixed(1).padStart(6);
  process.stderr.write(`${seconds} s  ${sentence}\n`);
}
