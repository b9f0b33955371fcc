/** The site of a history whose vbdd is a process of its own, that is killed with SIGKILL. */
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { placeFiles, type RunningVbdd, type Site } from './history-site.ts';
import { type ProcessHost, startProcessHost } from './vbdd-process.ts';

/** A site with bin/vbdd on the host's socket. */
export async function startProcessSite(): Promise<Site> {
  await using stack = new AsyncDisposableStack();
  const kit = stack.use(await startProcessHost());
  // Beside the host's own: its sockets, and what vbdd itself keeps open.
  const dir = join(kit.dir, 'files');
  mkdirSync(dir);
  const files = stack.use(placeFiles(dir));
  const { host, server } = kit;
  const vbdd = asProcess(kit);
  const owned = stack.move();
  return {
    ...files,
    dir,
    host,
    server,
    sysfsDir: join(kit.dir, 'sys'),
    vbdd,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function asProcess(kit: ProcessHost): RunningVbdd {
  const lines: string[] = [];
  const listen = (): void => {
    kit.vbdd.stderr?.on('data', (chunk: Buffer) => lines.push(chunk.toString()));
  };
  listen();
  return {
    get pid() {
      return kit.vbdd.pid ?? 0;
    },
    lines,
    async start() {
      await kit.restart();
      listen();
    },
    async stop() {
      if (kit.vbdd.exitCode !== null || kit.vbdd.signalCode !== null) return;
      const gone = once(kit.vbdd, 'exit');
      kit.vbdd.kill('SIGKILL');
      await gone;
    },
    inside: undefined,
  };
}
