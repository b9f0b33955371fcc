/** Which host to boot, and where the lab keeps what it builds and what it runs. */
import { join } from 'node:path';
import { Failure } from '../src/base/failure.ts';
import { suites, type SuiteName } from './suites.ts';

export interface Config {
  readonly suite: SuiteName;
  /** `c` is xenstored, `o` is oxenstored, Debian's default. */
  readonly xenstored: 'c' | 'o';
  readonly init: 'fast' | 'systemd';
  /** Which of the hosts of this kind, from 1. */
  readonly number: number;
}

export const root = join(import.meta.dirname, '..');

/** Built images, run state and evidence live here; git ignores it, and it may be removed at any time. */
export const cacheDir = process.env['VBDKIT_LAB_CACHE'] ?? join(root, '.cache', 'lab');

/** `bookworm-c-fast`, and `bookworm-c-fast-2` for one beside it. */
export function nameOf({ suite, xenstored, init, number }: Config): string {
  return [suite, xenstored, init, ...(number > 1 ? [number] : [])].join('-');
}

function oneOf<T extends string>(option: string, allowed: readonly T[], given: string): T {
  const found = allowed.find((name) => name === given);
  if (found !== undefined) return found;
  throw new Failure('invalid', `--${option} ${given} is unknown — give ${allowed.join(' or ')}`);
}

/**
 * The configuration that the command line asks for.
 * @throws Failure invalid
 */
export function configOf(options: { suite: string; xenstored: string; init: string }): Config {
  return {
    suite: oneOf('suite', Object.keys(suites) as SuiteName[], options.suite),
    xenstored: oneOf('xenstored', ['c', 'o'], options.xenstored),
    init: oneOf('init', ['fast', 'systemd'], options.init),
    number: 1,
  };
}

/**
 * As many hosts of one kind as are to share a run, the first of them `config`.
 * @throws Failure invalid
 */
export function hostsOf(config: Config, jobs: string): Config[] {
  const count = Number(oneOf('jobs', ['1', '2', '3', '4'], jobs));
  return Array.from({ length: count }, (_, index) => ({ ...config, number: index + 1 }));
}
