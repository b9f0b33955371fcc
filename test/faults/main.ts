/** `npm run faults [-- NAME…]`: plants each fault in turn and says which test catches it. */
import { runWithFault } from './check.ts';
import { faults } from './faults.ts';

const wanted = process.argv.slice(2);
let missed = 0;
for (const fault of faults) {
  if (wanted.length > 0 && !wanted.includes(fault.name)) continue;
  const { caught, output } = await runWithFault(fault);
  if (!caught) missed += 1;
  process.stdout.write(
    `${caught ? 'caught' : 'MISSED'}  ${fault.name}: ${fault.breaks} (${fault.caughtBy})\n`,
  );
  if (wanted.length > 0) process.stdout.write(output);
}
process.exitCode = missed > 0 ? 1 : 0;
