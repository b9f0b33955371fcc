/** The time that everything in a build has, so that it is the same each time. */
import { execFileSync } from 'node:child_process';
import { home } from '../src/sys/home.ts';

/** SOURCE_DATE_EPOCH, or when the last commit was made, in seconds since 1970. */
export function epochOfBuild(): string {
  const given = process.env['SOURCE_DATE_EPOCH'];
  if (given !== undefined) return given;
  const options = { cwd: home, encoding: 'utf8' } as const;
  return execFileSync('git', ['log', '-1', '--format=%ct'], options).trim();
}
