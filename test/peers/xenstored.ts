/** Debian's own xenstoreds, run without a hypervisor through the shim fakexen.c. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { socketTransport } from '../../src/xenstore/socket-transport.ts';
import type { Connect } from '../../src/xenstore/transport.ts';
import { needs, peersDir, program, type SkipOption } from '../peers.ts';
import { until } from '../patience.ts';
import { openRaw } from '../xenstore/raw-client.ts';

/** The two that Debian has: C xenstored, and the one in OCaml, which Debian starts by default. */
export type XenstoredKind = 'xenstored' | 'oxenstored';

/** Where tools/peers.sh unpacked Xen's packages, as if it were `/`. */
export const xenDir = join(peersDir, 'xen');

/** A program of xen-utils, whatever version the Debian release has, or undefined. */
export function xenProgram(name: string): string | undefined {
  return globSync(join(xenDir, 'usr/lib/xen-*/bin', name))[0];
}

/** Options for a test that runs one of Debian's xenstoreds. */
export function needsXenstored(kind: XenstoredKind): SkipOption {
  const there = xenProgram(kind) !== undefined && program('cc') !== undefined;
  return needs(there, `no ${kind} or no cc — run tools/peers.sh`);
}

export interface RealXenstored extends AsyncDisposable {
  /** Its socket, which takes everyone for dom0. */
  readonly socket: string;
  /** A new domain: there for the hypervisor, and introduced to xenstored. */
  introduce(domid: number): Promise<void>;
  /** The domain is gone from the hypervisor, which tells xenstored. */
  destroy(domid: number): void;
  /** A connection as that domain, through its ring; there is one a domain at a time. */
  guest(domid: number): Connect;
  /** Ends the process as a crash does; `start` begins anew with an empty tree. */
  crash(): Promise<void>;
  start(): Promise<void>;
}

/** Starts one in a folder of its own. */
export async function startXenstored(kind: XenstoredKind): Promise<RealXenstored> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-xenstored-'));
  const socket = join(dir, 'socket');
  const domains = new Set<number>();
  const saveDomains = (): void => {
    const text = [...domains].map((domid) => `${domid}\n`).join('');
    // In one step, for the shim reads it whenever it likes.
    writeFileSync(join(dir, 'domains.new'), text);
    renameSync(join(dir, 'domains.new'), join(dir, 'domains'));
  };
  let child: ChildProcess | undefined;
  const server: RealXenstored = {
    socket,
    async introduce(domid) {
      domains.add(domid);
      saveDomains();
      await using dom0 = await openRaw(socketTransport(socket));
      assert.equal(await dom0.ask('introduce', [domid, 1, 1, ''].join('\0')), 'introduce OK|');
      await until(`domain ${domid} listens`, () => existsSync(join(dir, `${domid}.sock`)));
    },
    destroy(domid) {
      domains.delete(domid);
      rmSync(join(dir, `${domid}.sock`), { force: true });
      saveDomains();
    },
    guest(domid) {
      // A guest's paths are its own: xenstored knows who asks.
      return async (events) => {
        const transport = await socketTransport(join(dir, `${domid}.sock`))(events);
        return { send: (bytes) => transport.send(bytes), close: () => transport.close() };
      };
    },
    async crash() {
      const exited = once(child!, 'exit');
      child!.kill('SIGKILL');
      await exited;
      rmSync(socket, { force: true });
    },
    async start() {
      const started = spawnIn(dir, kind);
      child = started;
      const hasEnded = (): boolean => started.exitCode !== null || started.signalCode !== null;
      await until(`${kind} listens`, async () => hasEnded() || (await listens(socket)));
      if (hasEnded()) {
        throw new Error(`${kind} ended: ${readFileSync(join(dir, 'log'), 'utf8')}`);
      }
    },
    async [Symbol.asyncDispose]() {
      if (child?.exitCode === null && child.signalCode === null) await server.crash();
      rmSync(dir, { recursive: true });
    },
  };
  saveDomains();
  await server.start();
  return server;
}

function spawnIn(dir: string, kind: XenstoredKind): ChildProcess {
  const config = join(dir, 'oxenstored.conf');
  const lines = ['persistent = false', 'perms-activate = true', 'quota-activate = true'];
  for (const name of ['pid-file', 'xenstored-log-file', 'access-log-file']) {
    lines.push(`${name} = ${join(dir, name)}`);
  }
  for (const name of ['kva', 'port']) lines.push(`xenstored-${name} = /proc/xen/xsd_${name}`);
  writeFileSync(config, `${lines.join('\n')}\n`);
  const args = kind === 'xenstored' ? ['-N'] : ['--no-fork', '--config-file', config];
  const log = openSync(join(dir, 'log'), 'w');
  return spawn(xenProgram(kind)!, args, {
    stdio: ['ignore', log, log],
    env: {
      ...process.env,
      FAKEXEN_DIR: dir,
      LD_PRELOAD: buildShim(),
      LD_LIBRARY_PATH: globSync(join(xenDir, 'usr/lib/*-linux-gnu'))[0],
    },
  });
}

/** Builds the shim when its source is newer; safe when two tests do it at once. */
function buildShim(): string {
  const source = join(import.meta.dirname, 'fakexen.c');
  const shim = join(peersDir, 'fakexen.so');
  const builtMs = statSync(shim, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (builtMs < statSync(source).mtimeMs) {
    mkdirSync(peersDir, { recursive: true });
    const fresh = `${shim}.${process.pid}`;
    execFileSync('cc', ['-O1', '-shared', '-fPIC', '-o', fresh, source, '-ldl', '-lpthread']);
    renameSync(fresh, shim);
  }
  return shim;
}

/** A socket is there before it is listened on. */
async function listens(socket: string): Promise<boolean> {
  const connection = connect(socket);
  try {
    await once(connection, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    connection.destroy();
  }
}
