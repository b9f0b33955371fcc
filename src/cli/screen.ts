/** A terminal's other screen, painted anew each time, and given back as it was. */
import type { CliContext } from './context.ts';

export interface Screen extends Disposable {
  /** Paints lines, as many and as much of each as there is room for. */
  show(text: string): void;
  onKey(listener: (key: string) => void): void;
  /** Aborted by q, by Ctrl-C, and by a signal. */
  readonly ended: AbortSignal;
}

/** Another screen, no cursor, and lines that are cut where the terminal ends; and all as it was. */
const otherScreen = '\u001b[?1049h\u001b[?25l\u001b[?7l';
const ownScreen = '\u001b[?7h\u001b[?25h\u001b[?1049l';

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Takes the terminal of this process until it is disposed. */
export function openScreen(process: CliContext['process']): Screen {
  const { stdin, stdout } = process;
  const ended = new AbortController();
  const end = (): void => ended.abort();
  const listeners: ((key: string) => void)[] = [];
  const keys = (text: string): void => {
    for (const key of text) {
      // Ctrl-C is a key while keys come one by one.
      if (key === 'q' || key === '\u0003') end();
      for (const listener of listeners) listener(key);
    }
  };
  for (const signal of signals) process.on(signal, end);
  const isRaw = stdin.isTTY;
  if (isRaw) stdin.setRawMode(true);
  stdin.setEncoding('utf8').on('data', keys).resume();
  stdout.write(otherScreen);
  return {
    show(text) {
      const lines = text.split('\n').slice(0, stdout.rows - 1);
      stdout.write(`\u001b[H${lines.map((line) => `${line}\u001b[K`).join('\r\n')}\u001b[J`);
    },
    onKey: (listener) => void listeners.push(listener),
    ended: ended.signal,
    [Symbol.dispose]() {
      for (const signal of signals) process.off(signal, end);
      stdin.off('data', keys).pause();
      if (isRaw) stdin.setRawMode(false);
      stdout.write(ownScreen);
    },
  };
}
