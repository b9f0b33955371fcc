/** `vbd loop`: a loop device that a script can trust, handed out by vbdd or, for --run, without it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { buildCommand, type Command } from '@stricli/core';
import { loopKernel } from '../../backend/loop-kernel.ts';
import { createLoopPool } from '../../backend/loop-pool.ts';
import { openTarget } from '../../backend/target.ts';
import { Failure } from '../../base/failure.ts';
import { parseSize } from '../../base/units.ts';
import type { Ask } from '../../daemon/api/operations.ts';
import { type CliContext, writeJson } from '../context.ts';
import { formatTable } from '../table.ts';

interface LoopFlags {
  readonly readOnly: boolean;
  readonly offset: number;
  readonly directIo: boolean;
  readonly run?: string;
  readonly detach: boolean;
  readonly list: boolean;
  readonly json: boolean;
}

export const loopCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'Give a file its one loop device',
    customUsage: ['FILE [--run CMD]', '--detach DEVICE'],
    fullDescription: [
      'vbd loop FILE prints the device; vbdd holds it until vbd loop --detach DEVICE.',
      'vbd loop FILE --run CMD runs the command with $LOOP set and gives the device back when it ends.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      readOnly: { kind: 'boolean', brief: 'For reading only', default: false },
      offset: { kind: 'parsed', parse: parseSize, brief: 'Begin at this byte', default: '0' },
      directIo: { kind: 'boolean', brief: 'Ask for direct I/O', default: false },
      run: { kind: 'parsed', parse: String, brief: 'Command to run with $LOOP', optional: true },
      detach: { kind: 'boolean', brief: 'Give the device back', default: false },
      list: { kind: 'boolean', brief: 'List what was handed out', default: false },
      json: { kind: 'boolean', brief: 'Print JSON', default: false },
    },
    aliases: { r: 'readOnly', d: 'detach' },
    positional: {
      kind: 'tuple',
      parameters: [
        {
          brief: 'The file, or the device to detach',
          parse: String,
          optional: true,
          placeholder: 'file',
        },
      ],
    },
  },
  async func(this: CliContext, flags: LoopFlags, file?: string) {
    if (flags.list) return listLeases(this, flags);
    if (file === undefined) throw new Failure('invalid', 'no file was named — vbd loop FILE');
    if (flags.detach) return giveBack(this, file);
    if (flags.run !== undefined) return runWithLoop(this, flags, file, flags.run);
    const lease = await this.client().ask('POST /v1/loops', { body: requestOf(flags, file) });
    if (flags.json) writeJson(this, lease);
    else this.process.stdout.write(`${lease.device}\n`);
  },
});

function requestOf(flags: LoopFlags, file: string): Ask<'POST /v1/loops'>['body'] {
  const { readOnly: read_only, offset, directIo: direct_io } = flags;
  return { path: absolute(file), read_only, offset, direct_io };
}

function absolute(file: string): string {
  return file.startsWith('/') ? file : `${process.cwd()}/${file}`;
}

async function listLeases(context: CliContext, flags: LoopFlags): Promise<void> {
  const { loops } = await context.client().ask('GET /v1/loops');
  if (flags.json) return writeJson(context, loops);
  const rows = loops.map((lease) => [
    lease.device,
    lease.read_only ? 'r' : 'w',
    lease.lessee,
    lease.path,
  ]);
  context.process.stdout.write(formatTable(['Device', 'Mode', 'Pid', 'Path'], rows));
}

async function giveBack(context: CliContext, device: string): Promise<void> {
  const number = /^(?:\/dev\/loop)?(\d+)$/.exec(device)?.[1];
  if (number === undefined) {
    throw new Failure('invalid', `${device} is not a loop device — name one like /dev/loop3`);
  }
  await context.client().ask('DELETE /v1/loops/{number}', { path: { number } });
}

/** The device lives as long as the command; vbdd is asked first, so that its guests are minded. */
async function runWithLoop(
  context: CliContext,
  flags: LoopFlags,
  file: string,
  command: string,
): Promise<void> {
  using loop = await heldLoop(context, flags, file);
  const child = spawn('/bin/sh', ['-c', command], {
    stdio: 'inherit',
    env: { ...process.env, LOOP: loop.device },
  });
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  context.process.exitCode = code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
}

async function heldLoop(
  context: CliContext,
  flags: LoopFlags,
  file: string,
): Promise<{ device: string } & Disposable> {
  try {
    const held = await context.client().holdLoop(requestOf(flags, file));
    return { device: held.value.device, [Symbol.dispose]: () => held[Symbol.dispose]() };
  } catch (thrown) {
    if (!(thrown instanceof Failure) || thrown.kind !== 'unavailable') throw thrown;
    return ownLoop(flags, file);
  }
}

/** Without vbdd: this process holds the device, and the kernel frees it even if we are killed. */
function ownLoop(flags: LoopFlags, file: string): { device: string } & Disposable {
  using target = openTarget(absolute(file), flags.readOnly ? 'r' : 'w');
  if (target.facts.kind !== 'file') {
    throw new Failure('invalid', `${file} is a block device already — use it as it is`);
  }
  const pool = createLoopPool(loopKernel(), { spare: 0 });
  const { device, inode } = target.facts;
  const claim = pool.acquire({
    backingFd: target.fd.number,
    device,
    inode,
    readOnly: flags.readOnly,
    offsetBytes: flags.offset,
    directIo: flags.directIo,
    name: absolute(file),
  });
  return {
    device: claim.devicePath,
    [Symbol.dispose]() {
      claim[Symbol.dispose]();
      pool[Symbol.dispose]();
    },
  };
}
