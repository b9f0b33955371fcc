/** A guest's load that is checked as it runs: every block that is read has what was written there last. */
import type { GuestDisk } from '../../src/host/guest-disk.ts';

const BLOCK_SECTORS = 8;
const BLOCK_BYTES = BLOCK_SECTORS * 512;

export interface LoadReport {
  readonly requests: number;
  /** What the guest was told went wrong. */
  readonly errors: readonly string[];
  /** Blocks that had other bytes than they should. */
  readonly wrong: number;
}

export interface Load {
  readonly requests: number;
  /** The longest time without any answer since this was asked last, in ms. */
  takePauseMs(): number;
  /** Ends it with its guest, which is told nothing more. */
  abandon(): void;
  /** Ends it, reads everything that it ever wrote once more, and tells how it went. */
  stop(): Promise<LoadReport>;
}

export interface LoadOptions {
  /** Requests under way at a time. */
  readonly depth: number;
  readonly random: () => number;
}

interface State {
  readonly disk: GuestDisk;
  readonly random: () => number;
  readonly errors: string[];
  requests: number;
  wrong: number;
  lastMs: number;
  pauseMs: number;
  stopped: boolean;
  abandoned: boolean;
}

/** Loads the disk with writes, reads and flushes of single blocks until it is stopped. */
export function startLoad(disk: GuestDisk, { depth, random }: LoadOptions): Load {
  const state: State = {
    disk,
    random,
    errors: [],
    requests: 0,
    wrong: 0,
    lastMs: performance.now(),
    pauseMs: 0,
    stopped: false,
    abandoned: false,
  };
  const blocks = Math.floor(disk.description.sectors / BLOCK_SECTORS);
  const lanes = Array.from({ length: depth }, (_, lane) => {
    // Each has blocks of its own, far from one another: its order is the only one.
    const own = Array.from({ length: 32 }, (__, i) => (i * depth + lane) % blocks);
    return { own, versions: new Map<number, number>() };
  });
  const running = lanes.map(({ own, versions }) => runLane(state, own, versions));
  return {
    get requests() {
      return state.requests;
    },
    takePauseMs() {
      const pauseMs = Math.max(state.pauseMs, performance.now() - state.lastMs);
      state.pauseMs = 0;
      return pauseMs;
    },
    abandon() {
      state.stopped = true;
      state.abandoned = true;
    },
    async stop() {
      state.stopped = true;
      await Promise.all(running);
      for (const { versions } of lanes) {
        for (const block of versions.keys()) await checkBlock(state, block, versions);
      }
      const { requests, errors, wrong } = state;
      return { requests, errors, wrong };
    },
  };
}

async function runLane(
  state: State,
  own: readonly number[],
  versions: Map<number, number>,
): Promise<void> {
  const { disk, random } = state;
  let version = 0;
  while (!state.stopped) {
    const block = own[Math.floor(random() * own.length)] ?? 0;
    const what = random();
    version += 1;
    try {
      if (what < 0.5) {
        await disk.write(block * BLOCK_SECTORS, contentsOf(block, version));
        versions.set(block, version);
      } else if (what < 0.95) await checkBlock(state, block, versions);
      else await disk.flush();
    } catch (thrown) {
      if (!state.abandoned) state.errors.push(String(thrown));
      return;
    }
    state.requests += 1;
    const nowMs = performance.now();
    state.pauseMs = Math.max(state.pauseMs, nowMs - state.lastMs);
    state.lastMs = nowMs;
  }
}

async function checkBlock(
  state: State,
  block: number,
  versions: ReadonlyMap<number, number>,
): Promise<void> {
  const version = versions.get(block);
  const found = await state.disk.read(block * BLOCK_SECTORS, BLOCK_SECTORS);
  const wanted = version === undefined ? new Uint8Array(BLOCK_BYTES) : contentsOf(block, version);
  if (Buffer.compare(found, wanted) !== 0) state.wrong += 1;
}

function contentsOf(block: number, version: number): Uint8Array {
  const words = new Int32Array(BLOCK_BYTES / 4);
  for (let i = 0; i < words.length; i += 2) {
    words[i] = block + 1;
    words[i + 1] = version;
  }
  return new Uint8Array(words.buffer);
}
