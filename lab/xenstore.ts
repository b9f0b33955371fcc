/** Dom0's store as a step sees it: nodes, a dump of all, and a trace of who does what. */
import type { Config } from './config.ts';
import { quoted, type Dom0 } from './dom0.ts';
import { requestsOf, type StoreRequest } from './store-trace.ts';

export interface Trace {
  /** The server's own lines, each after the second in which it came. */
  readonly text: string;
  readonly requests: readonly StoreRequest[];
}

export interface Xenstore {
  /** A node's value, or undefined when there is none. */
  read(path: string): Promise<string | undefined>;
  write(path: string, value: string): Promise<void>;
  /** The children's names; none when there is no such node. */
  list(path: string): Promise<string[]>;
  /** Every node below a path with its value and permissions, one a line. */
  dump(path?: string): Promise<string>;
  /** What every client asked of the store while `work` ran. */
  trace(work: () => Promise<void>): Promise<Trace>;
}

/** Where oxenstored writes its log of requests; see lab/dom0/oxenstored.conf. */
const accessLog = '/run/xenstored-access.log';
const fifo = '/run/xenstored-trace';

export function xenstoreOf(dom0: Dom0, config: Config): Xenstore {
  /** C xenstored logs into a pipe, which a job of its own reads and stamps line by line. */
  async function traceC(work: () => Promise<void>): Promise<string> {
    await dom0.run(`rm -f ${fifo}; mkfifo ${fifo}`);
    const reading = dom0.run(
      `while IFS= read -r line; do echo "$EPOCHREALTIME $line"; done < ${fifo}`,
      { timeoutMs: 1_800_000 },
    );
    await dom0.run(`xenstore-control logfile ${fifo} && xenstore-control log on`);
    try {
      await work();
    } finally {
      await dom0.run('xenstore-control log off; xenstore-control logfile /dev/null');
    }
    return reading;
  }

  async function traceO(work: () => Promise<void>): Promise<string> {
    const from = await dom0.run(`wc -c < ${accessLog}`);
    await work();
    return dom0.run(`tail -c +$((${from} + 1)) ${accessLog}`);
  }

  return {
    read: async (path) => {
      const ran = await dom0.attempt(`xenstore-read ${quoted(path)}`);
      return ran.code === 0 ? ran.stdout.replace(/\n$/, '') : undefined;
    },
    write: async (path, value) => {
      await dom0.run(`xenstore-write ${quoted(path)} ${quoted(value)}`);
    },
    list: async (path) => {
      const ran = await dom0.attempt(`xenstore-list ${quoted(path)}`);
      return ran.code === 0 ? ran.stdout.split('\n').filter((name) => name !== '') : [];
    },
    dump: (path = '/') => dom0.run(`xenstore-ls -f -p ${quoted(path)}`),
    trace: async (work) => {
      const text = await (config.xenstored === 'c' ? traceC(work) : traceO(work));
      return { text, requests: requestsOf(text) };
    },
  };
}
