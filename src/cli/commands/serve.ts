/** `vbd serve`: images over NBD, on a unix socket or TCP, until a signal or a command's end. */
import { spawn } from 'node:child_process';
import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { BlockList } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import type { ImageFormat } from '../../image/formats.ts';
import type { ImageToServe } from '../../nbd/serve-worker.ts';
import { type Address, serveImages, type Serving } from '../../nbd/serve.ts';
import { readTlsFiles } from '../../nbd/tls.ts';
import type { CliContext } from '../context.ts';
import { type KeyFlags, keyFlags, passphraseOf } from '../key-flags.ts';
import { imageArgument, imageFlags } from '../image-flags.ts';
import { parseText } from '../parse-text.ts';

interface ServeFlags extends KeyFlags {
  readonly format?: ImageFormat;
  readonly readOnly: boolean;
  readonly direct: boolean;
  readonly allowPath?: readonly string[];
  readonly cache?: number;
  readonly bitmap?: readonly string[];
  readonly socket?: string;
  readonly tcp?: string;
  readonly tls?: string;
  readonly run?: string;
}

const text = (brief: string, placeholder: string) =>
  ({ kind: 'parsed', parse: parseText, brief, placeholder, optional: true }) as const;

export const serveCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Serve images over NBD',
    fullDescription: [
      'One image is the default export; of several, each has the name of its file.',
      'The address is printed once clients can come. SIGTERM or SIGINT ends the server in order.',
      'With --run the command finds $uri, $unixsocket and $exportname, and its exit code is ours.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: {
        ...imageFlags.format,
        brief: 'Format of the images; without it they are for reading only',
      },
      readOnly: { kind: 'boolean', brief: 'For reading only', default: false, withNegated: false },
      direct: {
        kind: 'boolean',
        brief: 'Past the page cache',
        default: false,
        withNegated: false,
      },
      allowPath: imageFlags.allowPath,
      ...keyFlags,
      cache: {
        kind: 'parsed',
        parse: parseSize,
        brief: 'What cached metadata of all images may take; 32M unless said',
        placeholder: 'size',
        optional: true,
      },
      bitmap: {
        ...imageFlags.allowPath,
        brief: 'Dirty bitmap that clients may ask for',
        placeholder: 'name',
      },
      socket: text('Unix socket to listen on', 'path'),
      tcp: text('Address to listen on: beyond loopback only with --tls', 'host:port'),
      tls: text('Folder with server-cert.pem, server-key.pem and, for clients, ca-cert.pem', 'dir'),
      run: text('Command to run while it is served', 'command'),
    },
    aliases: { f: 'format', r: 'readOnly', B: 'bitmap' },
    positional: { kind: 'array', parameter: imageArgument, minimum: 1 },
  },
  async func(this: CliContext, flags: ServeFlags, ...paths: string[]) {
    const images = imagesToServe(flags, paths);
    if (!flags.readOnly && flags.format === undefined) {
      this.process.stderr.write('vbd: served for reading only — name the --format to write\n');
    }
    using place = await addressOf(flags);
    const serving = await serveImages(images, place.address, { cacheBytes: flags.cache });
    const stop = (): void => serving.stop();
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop);
    if (flags.run === undefined) {
      this.process.stdout.write(`${serving.uri}\n`);
      await serving.ended;
      return;
    }
    this.process.exitCode = await runBeside(serving, flags.run, place.address, images);
  },
});

/** A reply about the state of a range has room for so many. */
const MOST_BITMAPS = 32;

function imagesToServe(flags: ServeFlags, paths: readonly string[]): ImageToServe[] {
  const { format, readOnly, direct, allowPath, bitmap } = flags;
  if ((bitmap?.length ?? 0) > MOST_BITMAPS) {
    throw new Failure('invalid', `more than ${MOST_BITMAPS} bitmaps are not served at a time`);
  }
  const names = paths.map((path) => (paths.length === 1 ? '' : basename(path)));
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) {
    throw new Failure('invalid', `two images are called ${twice} — serve them apart`);
  }
  const passphrase = passphraseOf(flags);
  return paths.map((path, index) => ({
    name: names[index] ?? '',
    path,
    format,
    // What clients write into a raw disk may look like another format the next time.
    writable: !readOnly && format !== undefined,
    direct,
    allowPaths: allowPath,
    bitmaps: bitmap,
    passphrase,
  }));
}

/** Where to listen; a socket of our own in a private folder when nothing was said. */
async function addressOf(flags: ServeFlags): Promise<{ address: Address } & Disposable> {
  const { socket, tcp, tls } = flags;
  const keep = (): void => {};
  if (socket !== undefined && tcp !== undefined) {
    throw new Failure('invalid', 'a server listens on one address — --socket or --tcp');
  }
  if (tls !== undefined && tcp === undefined) {
    throw new Failure('invalid', 'TLS is for TCP — --tcp HOST:PORT');
  }
  if (socket === '') throw new Failure('invalid', 'a socket needs a path — --socket PATH');
  if (tcp !== undefined) return { address: await tcpAddress(tcp, tls), [Symbol.dispose]: keep };
  if (socket !== undefined) return { address: { socket }, [Symbol.dispose]: keep };
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-serve-'));
  return {
    address: { socket: join(folder, 'nbd.sock') },
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}

async function tcpAddress(tcp: string, tls: string | undefined): Promise<Address> {
  const [, bracketed, plain, portText] = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(tcp) ?? [];
  const name = bracketed ?? plain;
  const port = Number(portText);
  if (name === undefined || port > 65_535) {
    throw new Failure('invalid', `${tcp} is no address to listen on — HOST:PORT`);
  }
  const { address: host, family } = await lookup(name).catch((thrown: unknown) => {
    throw new Failure('not-found', `no address is known of ${name}`, { name }, thrown);
  });
  if (tls !== undefined) return { host, port, tls: readTlsFiles(tls) };
  const loopback = new BlockList();
  loopback.addSubnet('127.0.0.0', 8, 'ipv4');
  loopback.addAddress('::1', 'ipv6');
  if (!loopback.check(host, family === 6 ? 'ipv6' : 'ipv4')) {
    const says = `whoever reaches ${host} could read and change the disks`;
    throw new Failure('denied', `${says} — use --tls DIR, or listen on 127.0.0.1`);
  }
  return { host, port };
}

/** Runs the command, then stops the server. @returns the command's exit code, as a shell tells it */
async function runBeside(
  serving: Serving,
  command: string,
  address: Address,
  images: readonly ImageToServe[],
): Promise<number> {
  const exportname = images[0]?.name ?? '';
  const child = spawn('/bin/sh', ['-c', command], {
    stdio: 'inherit',
    env: {
      ...process.env,
      uri: serving.uri,
      unixsocket: 'socket' in address ? address.socket : '',
      exportname,
    },
  });
  const forward = (signal: NodeJS.Signals): boolean => child.kill(signal);
  for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, forward);
  // A server that fails ends the command too: nothing it waits for will come.
  serving.ended.catch(() => child.kill('SIGTERM'));
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  serving.stop();
  await serving.ended;
  return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
}
