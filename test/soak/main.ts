/**
 * `npm run soak -- --minutes N [--histories N] [--seed S] [--jobs N]`: a crowd of guests under kills for
 * half of that time, then random histories, judged as those of the test suite are, by twice as many
 * processes as there are processors: each waits half of its time. The first that ends wrong is
 * printed and ends the run. `--tap-kills N` kills vbd-tap so many times under guests whose loads are
 * checked, and prints how long they waited.
 */
import { parseArgs } from 'node:util';
import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { seeded } from '../fuzz/seeded.ts';
import { runCrowd } from './crowd.ts';
import { distribution, killTap } from './tap-kills.ts';
import type { HistoriesOrder, HistoriesWord } from './play-histories.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    histories: { type: 'string', default: '1000000000' },
    seed: { type: 'string' },
    jobs: { type: 'string', default: String(2 * availableParallelism()) },
    'tap-kills': { type: 'string' },
  },
});
if (values['tap-kills'] !== undefined) await soakTap(numberOf('tap-kills'));
const minutes = numberOf('minutes');
const most = numberOf('histories');
const jobs = numberOf('jobs');
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
process.stdout.write(`soak: at most ${minutes} minutes, seed ${seed}\n`);

async function soakTap(kills: number): Promise<never> {
  const { requests, errors, wrong, pausesMs } = await killTap(kills, Math.random, (kill) => {
    if (kill % 10 === 0) process.stdout.write(`soak: ${kill} kills\n`);
  });
  for (const error of errors) process.stdout.write(`soak: a guest was told: ${error}\n`);
  const pause = distribution(pausesMs);
  const figures = { kills, requests, errors: errors.length, wrong, pause_ms: pause };
  process.stdout.write(`${JSON.stringify({ bench: 'tap-kills', ...figures })}\n`);
  process.exit(errors.length + wrong > 0 ? 1 : 0);
}

/** @returns why one of its histories ended wrong; nothing when none did */
async function playInProcess(order: HistoriesOrder): Promise<string> {
  const child = fork(join(import.meta.dirname, 'play-histories.ts'));
  counts.set(child, 0);
  const end = Promise.withResolvers<string>();
  child.on('message', (word: HistoriesWord) => {
    if ('played' in word) counts.set(child, word.played);
    else end.resolve(word.wrong ?? '');
  });
  child.on('exit', (code, signal) =>
    end.resolve(`a process of histories ended: ${signal ?? code}`),
  );
  child.send(order);
  return end.promise;
}

/** Does not wait for the others once one has found something. */
async function firstWrong(ends: readonly Promise<string>[]): Promise<string> {
  const found = ends.map(async (end) => {
    const wrong = await end;
    if (wrong === '') throw new Error('nothing is wrong');
    return wrong;
  });
  return Promise.any(found).catch(() => '');
}

function numberOf(name: 'minutes' | 'histories' | 'jobs' | 'tap-kills'): number {
  const number = Number(values[name]);
  if (number > 0) return number;
  process.stderr.write(`soak: --${name} ${values[name]} is not a number above 0\n`);
  process.exit(2);
}

const random = seeded(seed);
const say = (sentence: string): void => void process.stdout.write(`soak: ${sentence}\n`);
const crowd = await runCrowd(minutes / 2, random, say);
for (const sentence of [...crowd.lost, ...crowd.leaks]) say(sentence);

const counts = new Map<ChildProcess, number>();
const allPlayed = (): number => [...counts.values()].reduce((sum, count) => sum + count, 0);
const tell = setInterval(() => say(`${allPlayed()} histories`), 30_000);
const ends = Array.from({ length: jobs }, (_, job) =>
  playInProcess({ seed: seed + job, most: Math.ceil(most / jobs), minutes: minutes / 2 }),
);
const message = await firstWrong(ends);
clearInterval(tell);
for (const child of counts.keys()) child.kill('SIGKILL');
const isWrong = message !== '';
if (isWrong) process.stdout.write(`${message}\n`);
const leaks = /devices? (is|are) left|nodes are left|has open/.test(message) ? 1 : 0;
const forbidden = /forbidden share|attached beside|both attached/.test(message) ? 1 : 0;
const line = {
  bench: 'soak',
  histories: allPlayed(),
  wrong: isWrong ? 1 : 0,
  guests: crowd.guests,
  requests: crowd.requests,
  kills: crowd.kills,
  refused: crowd.refused,
  leaks: leaks + crowd.leaks.length,
  lost: crowd.lost.length,
  forbidden,
  rss_mb: crowd.rssMb,
  seed,
};
process.stdout.write(`${JSON.stringify(line)}\n`);
process.exit(isWrong || line.leaks + line.lost > 0 ? 1 : 0);
