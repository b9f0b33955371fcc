/** docs/tutorial.md, copied block by block into a shell: the programs are real, Xen and systemd are stand-ins. */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { assertRefused, tutorialBlocks, writtenLines } from '../../lab/tutorial.ts';
import { SECTOR_BYTES } from '../../src/base/units.ts';
import { parseXlConfig } from '../../src/disk/xl-config.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { startTapHost } from '../daemon/tap-host.ts';
import type { TestHost } from '../host/test-host.ts';
import { needsLoop, needsProgram } from '../peers.ts';

const bin = join(import.meta.dirname, '..', '..', 'bin');
const dir = mkdtempSync(join(tmpdir(), 'vbdkit-tutorial-'));
const loop = needsLoop();
const options = loop.skip === false ? needsProgram('curl', 'mke2fs') : loop;
after(() => rmSync(dir, { recursive: true }));

/** Of the page's paths those that are this machine's own. */
const here = (block: string): string =>
  block
    .replaceAll('/srv/tutorial', join(dir, 'tutorial'))
    .replaceAll('/bin/busybox root', `${join(dir, 'busybox')} root`)
    .replaceAll('cd /root', `cd ${dir}`)
    .replaceAll('/mnt', join(dir, 'mnt'))
    // What it finds here is no host for Xen.
    .replace(/^vbd doctor$/m, 'vbd doctor || :');

/** A guest as the page makes it: it writes a line to its second disk, again and again. */
async function createGuest(host: TestHost, text: string): Promise<Guest & AsyncDisposable> {
  const disks = parseXlConfig(text).disks.map((disk) => disk.text);
  const guest = await host.createGuest({ name: 'web', disks });
  const disk = await guest.disk('xvdb');
  const over = new AbortController();
  const write = async (): Promise<void> => {
    for (let n = 1; !over.signal.aborted; n++) {
      const block = Buffer.alloc(4096);
      block.write(`line ${n}\n`);
      await disk.write((n * block.length) / SECTOR_BYTES, block);
      await disk.flush();
      await sleep(20);
    }
  };
  const written = write();
  return {
    ...guest,
    async [Symbol.asyncDispose]() {
      over.abort();
      await written;
      await guest.shutdown();
    },
  };
}

test('every block of commands is one that a shell reads', () => {
  const blocks = tutorialBlocks();
  assert.ok(blocks.length > 12);
  for (const block of blocks) execFileSync('bash', ['-n'], { input: block, stdio: 'pipe' });
});

interface Site {
  /** Where a shell finds the programs of this site. */
  readonly env: NodeJS.ProcessEnv;
  /** Why a stand-in has failed. */
  readonly failures: unknown[];
}

/** A host with vbdd and its tap, and what stands for xl, systemctl and apt-get on it. */
async function startSite(stack: AsyncDisposableStack): Promise<Site> {
  const site = stack.use(await startTapHost());
  let guest: AsyncDisposable | undefined;
  const nothing = async (): Promise<void> => {};
  const failures = serveStandIns(stack, {
    'xl create web.cfg': async () => {
      const text = readFileSync(join(dir, 'tutorial/web.cfg'), 'utf8');
      guest = await createGuest(site.host, text);
    },
    'xl shutdown -w web': async () => guest?.[Symbol.asyncDispose](),
    'systemctl kill --signal=KILL vbd-tap vbdd': () => site.killBoth(),
    'apt-get install -y ./vbdkit_*.deb': nothing,
    'apt-get install -y busybox-static': nothing,
    'apt-get purge -y vbdkit': nothing,
  });
  const path = `${join(dir, 'stand-ins')}:${bin}:${process.env['PATH']}`;
  return { env: { ...process.env, PATH: path, VBDKIT_SOCKET: site.socket }, failures };
}

/**
 * Programs that ask this process, and end when it has done what they are told.
 * @returns what went wrong
 */
function serveStandIns(
  stack: AsyncDisposableStack,
  doings: Readonly<Record<string, () => Promise<void>>>,
): unknown[] {
  const folder = join(dir, 'stand-ins');
  const asks = join(dir, 'stand-ins.sock');
  mkdirSync(folder);
  writeFileSync(join(dir, 'busybox'), '');
  for (const name of ['xl', 'systemctl', 'apt-get']) {
    const ask = `exec curl --silent --fail --unix-socket ${asks} http://host/ --data "${name} $*"`;
    writeFileSync(join(folder, name), `#!/bin/sh\n${ask}\n`, { mode: 0o755 });
  }
  const failures: unknown[] = [];
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const said = (await request.toArray()).join('');
    const done = doings[said]?.() ?? Promise.reject(new Error(`nobody does: ${said}`));
    await done.catch((thrown: unknown) => failures.push(thrown));
    response.writeHead(failures.length === 0 ? 200 : 500).end();
  };
  const server = createServer((request, response) => void answer(request, response));
  server.listen(asks);
  stack.defer(() => void server.close());
  return failures;
}

test(
  'who copies the page block by block comes to its end, and no line is missing',
  options,
  async () => {
    await using stack = new AsyncDisposableStack();
    const { env, failures } = await startSite(stack);
    const folder = join(dir, 'folder');
    writeFileSync(folder, dir);
    mkdirSync(join(dir, 'mnt'));
    let lines = 0;
    for (const block of tutorialBlocks()) {
      const script = `cd "$(cat ${folder})"; set -e\n${here(block)}\npwd > ${folder}`;
      const run = promisify(execFile)('bash', ['-c', script], { env, timeout: 60_000 });
      const { stdout } = await run.catch((thrown: unknown) =>
        assert.fail(`${block}: ${String(thrown)} ${failures.join('\n')}`),
      );
      assertRefused(block, stdout);
      if (!block.includes('data.img')) continue;
      const text = readFileSync(join(dir, 'tutorial/data.img'), 'utf8').replaceAll('\0', '');
      const numbers = writtenLines(text);
      lines = numbers.length;
      assert.deepEqual(
        numbers,
        numbers.map((_, at) => at + 1),
      );
    }
    assert.ok(lines > 3, `${lines} lines were written`);
  },
);
