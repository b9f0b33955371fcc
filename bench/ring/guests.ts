/** Guests of the ring bench, and the processes that serve one of them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Failure } from '../../src/base/failure.ts';
import { abis, entriesOf, RingAt } from '../../src/ring/blkif.ts';
import { offerPort } from '../../src/ring/event-fifos.ts';
import { createGuestMemory, openGuestMemory } from '../../src/ring/guest-memory.ts';
import { recordBytes } from '../../src/ring/record.ts';
import { nodePath, run } from '../nbd/programs.ts';

const [abi] = abis;
if (abi === undefined) throw new Error('there is no ABI');
/** Rings are of one page. */
export const RECORD_BYTES: number = recordBytes(entriesOf(abi, 1));
/** The grant of a guest's first page, where its ring is. */
export const RING_REFERENCE = 8;

/** Makes guest `domid` with a new ring, and one event channel. */
export function createGuest(folder: string, domid: number, pages: number): void {
  createGuestMemory(folder, domid, pages);
  offerPort(folder, domid);
  using guest = openGuestMemory(folder, domid);
  guest.grant(RING_REFERENCE, 0, false);
  const words = new Int32Array(guest.memory.buffer, guest.memory.byteOffset, 16);
  words[RingAt.requestEvent / 4] = 1;
  words[RingAt.responseEvent / 4] = 1;
}

export interface Programs {
  readonly guest: string;
  readonly twin: string;
}

/** Builds the guests' and the twin's programs in `folder`. */
export async function buildPrograms(folder: string): Promise<Programs> {
  const build = async (name: string): Promise<string> => {
    const path = join(folder, name);
    await run('cc', ['-O2', '-o', path, join(import.meta.dirname, `${name}.c`)]);
    return path;
  };
  return { guest: await build('guest'), twin: await build('twin') };
}

export interface Backend extends AsyncDisposable {
  readonly domid: number;
  /** Nanoseconds that its threads have run. */
  cpuNs(): number;
  readonly pid: number;
}

export interface BackendOptions {
  readonly programs: Programs;
  readonly folder: string;
  readonly domid: number;
  readonly image: string;
  readonly isNull: boolean;
}

/** Starts our loop or its twin for a guest. @throws Failure io when it does not start */
export async function startBackend(
  kind: 'ours' | 'twin',
  options: BackendOptions,
): Promise<Backend> {
  const { programs, folder, domid, image, isNull } = options;
  const record = join(folder, `record-${domid}`);
  writeFileSync(record, '');
  truncateSync(record, RECORD_BYTES);
  const ours = [nodePath, join(import.meta.dirname, 'ours.ts')] as const;
  const [program, ...first] = kind === 'ours' ? ours : ([programs.twin] as const);
  const args = [...first, folder, String(domid), image, record, isNull ? 'null' : 'real'];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const exit = once(child, 'exit');
  const ready = once(child.stdout, 'data').then(() => true);
  if (!(await Promise.race([ready, exit.then(() => false)]))) {
    throw new Failure('io', `the ring bench's backend (${kind}) does not start`);
  }
  return {
    domid,
    pid: child.pid ?? 0,
    cpuNs: () => cpuNs(child),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await exit;
    },
  };
}

/** Nanoseconds that all threads of a process have run. */
function cpuNs({ pid }: ChildProcess): number {
  const tasks = `/proc/${pid}/task`;
  const times = readdirSync(tasks).map((task) => {
    try {
      return Number(readFileSync(`${tasks}/${task}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // A thread that has just ended.
      return 0;
    }
  });
  return times.reduce((sum, each) => sum + each, 0);
}

export interface Load {
  readonly operation: 'read' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
}

/** Has guests ask for so long. @returns requests per second, of each */
export async function drive(
  programs: Programs,
  folder: string,
  guests: { readonly first: number; readonly count: number },
  load: Load,
  seconds: number,
  spanBytes: number,
): Promise<number[]> {
  const { operation, blockBytes, depth } = load;
  const numbers = [blockBytes, depth, seconds, spanBytes].map(String);
  const who = [String(guests.first), String(guests.count)];
  const said = await run(programs.guest, [folder, ...who, operation, ...numbers]);
  return said.trim().split('\n').map(Number);
}
