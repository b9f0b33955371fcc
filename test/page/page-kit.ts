/** A vbdd with its page on an embedded host, and Debian's own Chromium that looks at it. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Browser, chromium } from 'playwright-core';
import { loadConfig } from '../../src/daemon/config.ts';
import { serveApi } from '../../src/daemon/serve-api.ts';
import { freePort } from '../free-port.ts';
import { startTapKit, type TapKit } from '../daemon/tap-kit.ts';
import { needs, needsLoop, program, type SkipOption } from '../peers.ts';

/** Long enough for no test's own words to be one by chance. */
export const TOKEN = '0123456789abcdef0123456789abcdef';

export interface PageKit extends AsyncDisposable {
  readonly kit: TapKit;
  /** `http://127.0.0.1:PORT`. */
  readonly address: string;
  readonly tokenFile: string;
  /** Has the API and the page end, and begin again after what happens meanwhile. */
  restart(meanwhile: () => Promise<void>): Promise<void>;
}

/** A host with vbdd, vbd-tap and the page. */
export async function startPageKit(): Promise<PageKit> {
  await using stack = new AsyncDisposableStack();
  const kit = stack.use(await startTapKit());
  const tokenFile = join(kit.host.dir, 'token');
  writeFileSync(tokenFile, `${TOKEN}\n`, { mode: 0o600 });
  const port = await freePort();
  const file = join(kit.host.dir, 'vbdkit.conf');
  writeFileSync(
    file,
    [
      `socket = "${join(kit.host.dir, 'vbdd.sock')}"`,
      `page_listen = "127.0.0.1:${port}"`,
      `page_hosts = ["dom0.example"]`,
      `page_token = "${tokenFile}"`,
      '',
    ].join('\n'),
  );
  const config = loadConfig(file);
  const own = { xl: undefined, ownDomid: 0, tap: undefined, version: '1.2.3' };
  const start = (): Promise<AsyncDisposable> => serveApi({ daemon: kit.vbdd, config, ...own });
  let api = await start();
  stack.defer(() => api[Symbol.asyncDispose]());
  const owned = stack.move();
  return {
    kit,
    address: `http://127.0.0.1:${port}`,
    tokenFile,
    async restart(meanwhile) {
      await api[Symbol.asyncDispose]();
      try {
        await meanwhile();
      } finally {
        api = await start();
      }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Options for a test that needs Chromium, beside loop devices. */
export function needsChromium(): SkipOption {
  const loop = needsLoop();
  if (loop.skip !== false) return loop;
  return needs(program('chromium') !== undefined, 'no chromium — run tools/peers.sh');
}

/** Debian's own, without a window. */
export async function openBrowser(): Promise<Browser & AsyncDisposable> {
  const executablePath = program('chromium');
  if (executablePath === undefined) throw new Error('there is no chromium');
  return chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
}
