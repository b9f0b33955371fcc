/**
 * `npm run soak -- --minutes N [--seed S]`: random histories for as long as one likes, judged as
 * those of the test suite are. The first that ends wrong is shrunk, printed, and ends the run.
 */
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { histories, playHistory } from '../daemon/histories.ts';
import { startSite } from '../daemon/history-site.ts';

const { values } = parseArgs({
  options: { minutes: { type: 'string', default: '10' }, seed: { type: 'string' } },
});
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new Error(`${values.minutes} is not a number of minutes`);
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
process.stdout.write(`soak: ${minutes} minutes, seed ${seed}\n`);

let played = 0;
const tell = setInterval(() => process.stdout.write(`soak: ${played} histories\n`), 30_000);
const result = await fc.check(
  fc.asyncProperty(histories(30), async (commands) => {
    played += 1;
    await playHistory(startSite, commands);
  }),
  { seed, numRuns: 1e9, interruptAfterTimeLimit: minutes * 60_000 },
);
clearInterval(tell);
// A run that was interrupted by its time limit found nothing.
const wrong = result.counterexample === null ? 0 : 1;
if (wrong > 0) process.stdout.write(`${fc.defaultReportMessage(result) ?? ''}\n`);
process.stdout.write(`${JSON.stringify({ bench: 'soak', histories: played, wrong, seed })}\n`);
process.exitCode = wrong;
