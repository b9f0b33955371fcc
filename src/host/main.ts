/**
 * The embedded host as a process of its own: a store on a unix socket, dom0's kernel, and a kernel
 * for each domain that someone introduces, until that is released. It ends with SIGTERM, or with
 * its standard input where `--until-eof` is said, so that it does not outlive who started it.
 */
import { parseArgs } from 'node:util';
import { lineLog } from '../base/log.ts';
import { sentenceOf } from '../base/failure.ts';
import { startStoreServer } from '../xenstore/embedded/server.ts';
import { followDomains } from './follow-domains.ts';
import { startMachine } from './machine.ts';

const usage = 'usage: node src/host/main.ts --socket PATH --sysfs DIR [--until-eof]\n';

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      socket: { type: 'string' },
      sysfs: { type: 'string' },
      'until-eof': { type: 'boolean', default: false },
    },
  });
  const { socket, sysfs } = values;
  if (socket === undefined || sysfs === undefined) {
    process.stderr.write(usage);
    process.exitCode = 2;
    return;
  }
  const log = lineLog((line) => process.stderr.write(line), false);
  await using server = startStoreServer();
  await using machine = await startMachine({ server, sysfsDir: sysfs, log });
  await using _domains = await followDomains(machine, server.connect(0), log);
  await using _listening = await server.listen(socket);
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  process.once('SIGTERM', () => end());
  process.once('SIGINT', () => end());
  if (values['until-eof']) process.stdin.once('end', () => end()).resume();
  process.stdout.write(`ready ${socket}\n`);
  await ended;
}

main().catch((thrown: unknown) => {
  process.stderr.write(`${sentenceOf(thrown)}\n`);
  process.exitCode = 1;
});
