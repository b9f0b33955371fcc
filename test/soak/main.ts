/**
 * `npm run soak -- --minutes N [--histories N] [--seed S]`: a crowd of guests under kills for half of
 * that time, then random histories, judged as those of the test suite are. The first that ends wrong
 * is shrunk, printed, and ends the run. `--tap-kills N` kills vbd-tap so many times under guests whose loads are checked, and
 * prints how long they waited.
 */
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { seeded } from '../fuzz/seeded.ts';
import { runCrowd } from './crowd.ts';
import { distribution, killTap } from './tap-kills.ts';
import { histories, playHistory } from '../daemon/histories.ts';
import { startSite } from '../daemon/history-site.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    histories: { type: 'string', default: '1000000000' },
    seed: { type: 'string' },
    'tap-kills': { type: 'string' },
  },
});
if (values['tap-kills'] !== undefined) await soakTap(numberOf('tap-kills'));
const minutes = numberOf('minutes');
const most = numberOf('histories');
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

function numberOf(name: 'minutes' | 'histories' | 'tap-kills'): number {
  const number = Number(values[name]);
  if (number > 0) return number;
  process.stderr.write(`soak: --${name} ${values[name]} is not a number above 0\n`);
  process.exit(2);
}

const random = seeded(seed);
const say = (sentence: string): void => void process.stdout.write(`soak: ${sentence}\n`);
const crowd = await runCrowd(minutes / 2, random, say);
for (const sentence of [...crowd.lost, ...crowd.leaks]) say(sentence);

let played = 0;
const tell = setInterval(() => say(`${played} histories`), 30_000);
const result = await fc.check(
  fc.asyncProperty(histories(30), async (commands) => {
    played += 1;
    await playHistory(startSite, commands);
  }),
  { seed, numRuns: most, interruptAfterTimeLimit: (minutes * 60_000) / 2 },
);
clearInterval(tell);
// A run that was interrupted by its time limit found nothing.
const isWrong = result.counterexample !== null;
const { errorInstance: thrown } = result;
const why = thrown instanceof Error ? thrown.message : 'no reason';
const message = isWrong ? `${fc.defaultReportMessage(result) ?? 'no report'}\n${why}` : '';
if (isWrong) process.stdout.write(`${message}\n`);
const leaks = /devices? (is|are) left|nodes are left|has open/.test(message) ? 1 : 0;
const forbidden = /forbidden share|attached beside|both attached/.test(message) ? 1 : 0;
const line = {
  bench: 'soak',
  histories: played,
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
