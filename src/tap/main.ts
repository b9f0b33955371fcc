/** vbd-tap: the data plane as a process, in the foreground until SIGTERM. It knows no xenstore. */
import { flushCompileCache } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import { asSentence, Failure, sentenceOf } from '../base/failure.ts';
import type { LogFields } from '../base/log.ts';
import { parsedOptions, usageOf } from '../base/options.ts';
import { parseSize } from '../base/units.ts';
import { parseDiskName } from '../disk/backend-nodes.ts';
import { vdevName } from '../disk/vdev.ts';
import { readVersion } from '../sys/home.ts';
import { serveControl } from './control-server.ts';
import { startInBackground, takeFolder, takeOverIo, tellStarter } from './life.ts';
import { tapOptions } from './options.ts';
import type { PauseMessage } from './orders.ts';
import { programLog } from '../sys/program-log.ts';
import { joinService } from './service.ts';
import { startWorkers } from './workers.ts';

const MOST_WORKERS = 4;
const commandLine = parsedOptions(tapOptions);

interface Words {
  readonly socket: string;
  readonly workers: number;
  readonly cacheBytes: number | undefined;
  readonly guests: string | undefined;
  readonly background: boolean;
}

function words(args: string[]): Words {
  try {
    const { values } = parseArgs({ args, options: commandLine });
    const workers = Number(values.workers ?? Math.min(availableParallelism(), MOST_WORKERS));
    if (!Number.isInteger(workers) || workers < 1 || workers > 64) {
      throw new Failure('invalid', `--workers ${values.workers} is not a number from 1 to 64`);
    }
    const { socket = '/run/vbdkit/tap.sock', cache, guests, background = false } = values;
    const cacheBytes = cache === undefined ? undefined : parseSize(cache);
    return { socket, workers, cacheBytes, guests, background };
  } catch (thrown) {
    if (thrown instanceof Failure) throw thrown;
    const said = thrown instanceof Error ? thrown.message : String(thrown);
    throw new Failure('invalid', `${asSentence(said)} — see vbd-tap --help`, {}, thrown);
  }
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  const version = readVersion();
  if (args.includes('--help')) return void process.stdout.write(usageOf('vbd-tap', tapOptions));
  if (args.includes('--version')) return void process.stdout.write(`vbd-tap ${version}\n`);
  const { socket, workers: count, cacheBytes, guests, background } = words(args);
  if (background) {
    process.exitCode = await startInBackground(args.filter((word) => word !== '--background'));
    return;
  }
  const log = programLog('vbd-tap', process.env);

  using service = joinService(process.env, process.pid, (sentence) => log('warning', sentence));

  const runFolder = dirname(socket);
  using _folder = takeFolder(runFolder);
  using io = await takeOverIo(runFolder, (sentence) => log('warning', sentence));
  const kept = { ioFd: io.number, runFolder };
  const options = { ...kept, guestsFolder: guests, cacheBytes };
  await using workers = startWorkers(count, options, (sentence) => log('error', sentence));
  await Promise.race([workers.ready, workers.failed]);
  using _pauses = workers.onPause((pause) =>
    log('warning', pauseSentence(pause), pauseFields(pause)),
  );
  const api = async () => (await import('./control.ts')).tapApi(workers, version, runFolder);
  await using _control = await serveControl('vbd-tap', api, socket, log);
  log('notice', `vbd-tap ${version} is ready at ${socket}`);
  tellStarter();
  service.ready((withinMs) => workers.areAlive(withinMs));
  // Now, as one that is killed leaves nothing of it to its successor.
  flushCompileCache();

  const stopped = Promise.withResolvers<void>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.once(signal, () => stopped.resolve());
  await Promise.race([stopped.promise, workers.failed]);
  service.stopping();
  log('notice', 'vbd-tap stops; what guests ask for waits for its successor');
}

function pauseSentence({ name, path, paused }: PauseMessage): string {
  if (paused === null) return `${name} goes on with ${path}`;
  if (paused === 'admin') return `${name} is paused, as an admin has asked — vbd resume ends it`;
  const advice = 'make room; its guest waits, and goes on by itself';
  return `${name} is paused: there is no room for ${path} (${paused}) — ${advice}`;
}

/** As vbdd's own entries have them. */
function pauseFields({ name, path }: PauseMessage): LogFields {
  const key = parseDiskName(name);
  return {
    VBD_DOMID: key?.domid,
    VBD_VDEV: key && vdevName(key.devid),
    VBD_PATH: path,
  };
}

try {
  await main();
} catch (thrown) {
  process.stderr.write(`vbd-tap: ${sentenceOf(thrown)}\n`);
  if (!(thrown instanceof Failure) && thrown instanceof Error)
    process.stderr.write(`${thrown.stack}\n`);
  process.exitCode = thrown instanceof Failure ? thrown.exitCode : 1;
}
