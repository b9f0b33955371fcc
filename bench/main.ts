/** Runs a bench by name, `npm run bench -- NAME`; without a name, says which there are. */
import { Failure, sentenceOf } from '../src/base/failure.ts';

type Bench = (args: string[], signal: AbortSignal) => Promise<void>;

const benches: Readonly<Record<string, { brief: string; load: () => Promise<Bench> }>> = {
  adopt: {
    brief: 'the start of vbdd on a host with a thousand disks, beside xenstore-ls',
    load: async () => (await import('./adopt.ts')).benchAdopt,
  },
  attach: {
    brief: "raw files to guests: vbdd, the kernel's floor, losetup, Xen's block script",
    load: async () => (await import('./attach.ts')).benchAttach,
  },
  cli: {
    brief: 'short verbs of vbd with a vbdd that answers, beside node -e 0',
    load: async () => (await import('./cli.ts')).benchCli,
  },
  nbd: {
    brief: 'images over NBD beside qemu-nbd, convert beside qemu-img, info beside node',
    load: async () => (await import('./nbd.ts')).benchNbd,
  },
  ring: {
    brief: "guests' rings beside the same loop in C, and many disks on one tap",
    load: async () => (await import('./ring.ts')).benchRing,
  },
  web: {
    brief: 'what a second of the web page costs the browser, with hundreds of disks',
    load: async () => (await import('./web.ts')).benchWeb,
  },
};

const usage = Object.entries(benches)
  .map(([name, { brief }]) => `  ${name}  ${brief}\n`)
  .join('');

async function main([name, ...args]: string[]): Promise<void> {
  const bench = benches[name ?? ''];
  if (bench === undefined) {
    process.stdout.write(`usage: npm run bench -- NAME [OPTION]...\n\n${usage}`);
    process.exitCode = name === undefined ? 0 : 2;
    return;
  }
  const interrupted = new AbortController();
  const stop = (): void => interrupted.abort(new Failure('gone', 'the bench was interrupted'));
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop);
  await (
    await bench.load()
  )(args, interrupted.signal);
}

try {
  await main(process.argv.slice(2));
} catch (thrown) {
  process.stderr.write(`bench: ${sentenceOf(thrown)}\n`);
  if (!(thrown instanceof Failure) && thrown instanceof Error)
    process.stderr.write(`${thrown.stack}\n`);
  process.exitCode = thrown instanceof Failure ? thrown.exitCode : 1;
}
// Nothing is left to wait for; the store's pending timers are.
process.exit();
