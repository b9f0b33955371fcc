/**
 * `npm run fuzz -- [--minutes N] [--target NAME] [--seed S]`: feeds every parser wrong input, in turn,
 * for as long as one likes. What ends otherwise than with a sentence is printed, with its input.
 */
import { parseArgs } from 'node:util';
import { fuzz } from './fuzz.ts';
import { seeded } from './seeded.ts';
import { fuzzTargets } from './targets.ts';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '3' },
    target: { type: 'string' },
    seed: { type: 'string' },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
const targets = fuzzTargets().filter(({ name }) => name === (values.target ?? name));
if (!(minutes > 0) || targets.length === 0) {
  const names = fuzzTargets().map(({ name }) => name);
  process.stderr.write(`fuzz: --minutes is above 0, --target one of ${names.join(', ')}\n`);
  process.exit(2);
}
let [runs, findings] = [0, 0];
for (const target of targets) {
  const limitMs = (minutes * 60_000) / targets.length;
  const report = fuzz(target, limitMs, seeded(seed));
  runs += report.runs;
  findings += report.findings.length;
  process.stdout.write(`fuzz: ${target.name}: ${report.runs} inputs\n`);
  for (const finding of report.findings)
    process.stdout.write(`${JSON.stringify(finding, null, 2)}\n`);
}
process.stdout.write(`${JSON.stringify({ bench: 'fuzz', runs, findings, seed })}\n`);
process.exitCode = findings > 0 ? 1 : 0;
