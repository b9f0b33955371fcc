/**
 * `npm run bench -- adopt`: how long vbdd takes to start on a host whose guests have many disks
 * already, beside `xenstore-ls` of the same store: all of it is read by both.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable } from '../src/cli/table.ts';
import { Failure } from '../src/base/failure.ts';
import { O, openFd } from '../src/sys/fd.ts';
import { openStore } from '../src/xenstore/open.ts';
import { needsLoop, needsProgram, type SkipOption } from '../test/peers.ts';
import { needsXenstored, startXenstored } from '../test/peers/xenstored.ts';
import { checkConnected, deviceOf } from './attach/guest-disks.ts';
import { BATCH, throughVbdd } from './attach/through.ts';
import { startVbdd } from './attach/vbdd.ts';
import { diskOf, MEMORY } from './attach/rig.ts';
import { formatTime, median, rounded } from './figures.ts';

const GUESTS = 10;
const FILE_BYTES = 2 ** 20;
const STORE_TIMEOUT_MS = 60_000;

/** What of the peers this machine lacks. */
export function needsAdoptPeers(): SkipOption {
  const needed = [needsLoop(), needsProgram('xenstore-ls'), needsXenstored('xenstored')];
  return needed.find(({ skip }) => skip !== false) ?? { skip: false };
}

interface Round {
  /** From its start to its first answer. */
  readonly startMs: number;
  readonly listMs: number;
}

/** Measures, prints a table and, last, one line of JSON. */
export async function benchAdopt(args: string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '3' },
      disks: { type: 'string', default: '1000' },
    },
  });
  const [disks, rounds] = values.quick ? [20, 1] : [Number(values.disks), Number(values.rounds)];
  const { skip: missing } = needsAdoptPeers();
  if (missing !== false) throw new Failure('unavailable', missing);
  const none = await measure(0, 1, signal);
  const many = await measure(disks, rounds, signal);
  const [startMs, listMs] = (['startMs', 'listMs'] as const).map((key) =>
    median(many.map((round) => round[key])),
  ) as [number, number];
  const emptyMs = median(none.map((round) => round.startMs));
  const table = formatTable(
    ['disks there', 'vbdd is ready', 'xenstore-ls', 'vbdd/xenstore-ls'],
    [
      ['0', formatTime(emptyMs), null, null],
      [String(disks), formatTime(startMs), formatTime(listMs), String(rounded(startMs / listMs))],
    ],
  );
  const figures = {
    bench: 'adopt',
    disks,
    start_ms: rounded(startMs),
    empty_start_ms: rounded(emptyMs),
    ls_ms: rounded(listMs),
    start_over_ls: rounded(startMs / listMs),
  };
  process.stdout.write(`${table}${JSON.stringify(figures)}\n`);
}

/** So many disks are attached, then vbdd is replaced again and again. */
async function measure(count: number, rounds: number, signal: AbortSignal): Promise<Round[]> {
  await using stack = new AsyncDisposableStack();
  const folder = mkdtempSync(join(MEMORY, 'vbdkit-bench-'));
  stack.defer(() => rmSync(folder, { recursive: true, force: true }));
  const xenstored = stack.use(await startXenstored('xenstored'));
  const { socket } = xenstored;
  for (let domid = 1; domid <= GUESTS; domid++) await xenstored.introduce(domid);
  const store = stack.use(await openStore({ path: socket, timeoutMs: STORE_TIMEOUT_MS }));
  const disks = Array.from({ length: count }, (_, i) => diskOf(folder, i + 1, GUESTS));
  for (const { file } of disks) {
    writeFileSync(file, '');
    truncateSync(file, FILE_BYTES);
  }
  {
    await using _first = await startVbdd(socket, folder);
    for (let at = 0; at < count; at += BATCH) {
      signal.throwIfAborted();
      await throughVbdd({ store }, disks.slice(at, at + BATCH));
    }
    // As blkback has them open: without it they would be gone with the first vbdd.
    for (const disk of disks) stack.use(openFd(await deviceOf(store, disk), O.RDONLY));
  }
  const measured: Round[] = [];
  for (let round = 0; round < rounds; round++) {
    signal.throwIfAborted();
    const listMs = timed(() =>
      execFileSync('xenstore-ls', {
        env: { ...process.env, XENSTORED_PATH: socket },
        stdio: ['ignore', 'ignore', 'inherit'],
      }),
    );
    await using vbdd = await startVbdd(socket, folder);
    const adopted = await vbdd.attached();
    if (adopted !== count) throw new Failure('io', `vbdd adopted ${adopted} disks of ${count}`);
    measured.push({ startMs: vbdd.startMs, listMs });
  }
  await checkConnected(store, disks);
  return measured;
}

function timed(run: () => void): number {
  const beganMs = performance.now();
  run();
  return performance.now() - beganMs;
}
