/** What xl takes before its verbs, and vbd too: `-v`, `-N`, `-T`, each by itself or several in one word. */

export interface GlobalFlags {
  /** Say what would be done, do nothing. */
  readonly dryRun: boolean;
  /** Say what vbdd is asked, and what is behind a failure. */
  readonly verbose: boolean;
  /** Begin each line on standard error with the time and the process. */
  readonly timestamps: boolean;
}

/** Takes them from the front of the words. */
export function takeGlobalFlags(argv: readonly string[]): { flags: GlobalFlags; rest: string[] } {
  const first = argv.findIndex((word) => !/^-[vNT]+$/.test(word));
  const count = first < 0 ? argv.length : first;
  const letters = argv.slice(0, count).join('');
  const [dryRun = false, verbose = false, timestamps = false] = ['N', 'v', 'T'].map((letter) =>
    letters.includes(letter),
  );
  return { flags: { dryRun, verbose, timestamps }, rest: argv.slice(count) };
}

/** From now on each line that is written there begins with the time, in UTC, and the process. */
export function stampLines(stream: NodeJS.WriteStream, pid: number): void {
  const write = stream.write.bind(stream);
  let atStart = true;
  const stamped = (line: string): string => {
    const head = atStart ? `${new Date().toISOString()} [${pid}] ` : '';
    atStart = line.endsWith('\n');
    return head + line;
  };
  stream.write = (text: string | Uint8Array): boolean =>
    write(
      String(text)
        .split(/(?<=\n)/)
        .map(stamped)
        .join(''),
    );
}
