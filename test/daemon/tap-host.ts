/** vbdd and vbd-tap as their users run them, beside an embedded host whose guests have disks on rings. */
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startTestHost, type TestHost } from '../host/test-host.ts';
import { startTapProcess } from '../tap/tap-process.ts';
import { startVbdd } from './vbdd-process.ts';

export interface TapHost extends AsyncDisposable {
  readonly host: TestHost;
  /** The control socket. */
  readonly socket: string;
  /** Ends both programs at once, as a crash does, and starts their successors. */
  killBoth(): Promise<void>;
}

/** Images of every kind of disk are served on rings. */
export async function startTapHost(): Promise<TapHost> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-tap-host-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(dir, { recursive: true }));
  const tap = stack.use(await startTapProcess());
  const host = stack.use(await startTestHost({ guestsFolder: tap.guests }));
  stack.use(await host.server.listen(join(dir, 'xenstored')));
  const config = join(dir, 'vbdkit.conf');
  writeFileSync(config, 'images = "ring"\n');
  const socket = join(dir, 'vbdd.sock');
  const store = join(dir, 'xenstored');
  const words = { store, sysfs: host.sysfsDir, tap: tap.socket, config, socket };
  const args = Object.entries(words).flatMap(([name, value]) => [`--${name}`, value]);
  let vbdd = await startVbdd(args);
  const end = async (signal: 'SIGKILL' | 'SIGTERM'): Promise<void> => {
    vbdd.kill(signal);
    await once(vbdd, 'exit');
  };
  stack.defer(() => end('SIGTERM'));
  const owned = stack.move();
  return {
    host,
    socket,
    async killBoth() {
      await end('SIGKILL');
      await tap.killAndRestart();
      vbdd = await startVbdd(args);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
