/** Makes wrong inputs of right ones, feeds them, and keeps what ended otherwise than with a Failure. */
import { Failure } from '../../src/base/failure.ts';
import type { Target } from './targets.ts';

/** An input that takes longer hangs, for whoever waits. */
const SLOW_MS = 20_000;
/** Bytes and numbers at the edges of what fields hold. */
const edges = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

export interface Finding {
  readonly target: string;
  readonly what: string;
  /** The input, in base64. */
  readonly input: string;
}

export interface FuzzReport {
  readonly runs: number;
  readonly findings: readonly Finding[];
}

/** Feeds a target for so long, or until something is found. */
export function fuzz(target: Target, limitMs: number, random: () => number): FuzzReport {
  const untilMs = performance.now() + limitMs;
  let runs = 0;
  while (performance.now() < untilMs) {
    const seed = target.seeds[Math.floor(random() * target.seeds.length)] ?? new Uint8Array(0);
    const input = mutate(seed, random);
    runs += 1;
    const sinceMs = performance.now();
    let what: string | undefined;
    try {
      target.feed(input);
    } catch (thrown) {
      if (!(thrown instanceof Failure))
        what = thrown instanceof Error ? String(thrown.stack) : String(thrown);
    }
    if (performance.now() - sinceMs > SLOW_MS) what ??= 'it took too long';
    if (what === undefined) continue;
    return {
      runs,
      findings: [{ target: target.name, what, input: Buffer.from(input).toString('base64') }],
    };
  }
  return { runs, findings: [] };
}

function mutate(seed: Uint8Array, random: () => number): Uint8Array {
  let bytes = Buffer.from(seed);
  const pick = (most: number): number => Math.floor(random() * most);
  // Most fields are in the first pages, whatever is behind them.
  const place = (): number => pick(random() < 0.8 ? Math.min(bytes.length, 4096) : bytes.length);
  const changes = 1 + pick(4);
  for (let change = 0; change < changes && bytes.length > 0; change++) {
    const at = place();
    const edge = edges[pick(edges.length)] ?? 0;
    switch (pick(6)) {
      case 0:
        bytes[at] = pick(256);
        break;
      case 1:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << pick(8));
        break;
      case 2:
        if (at + 4 <= bytes.length) bytes.writeUInt32BE(edge, at);
        break;
      case 3:
        if (at + 8 <= bytes.length) bytes.writeBigUInt64BE(BigInt(edge) << BigInt(pick(33)), at);
        break;
      case 4:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(place())]);
        break;
      default: {
        const from = place();
        const copied = Buffer.from(bytes.subarray(from, from + pick(64)));
        bytes.set(copied.subarray(0, bytes.length - at), at);
      }
    }
  }
  return bytes;
}
