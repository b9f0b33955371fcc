/** vbdd: the control plane as a process, in the foreground until SIGTERM. */
import { existsSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { createDevicePool } from '../backend/device-pool.ts';
import { loopKernel } from '../backend/loop-kernel.ts';
import { createLoopPool } from '../backend/loop-pool.ts';
import { managerStash } from '../backend/loop-stash.ts';
import { nbdKernel } from '../backend/nbd-kernel.ts';
import { asSentence, Failure, sentenceOf } from '../base/failure.ts';
import { parsedOptions, usageOf } from '../base/options.ts';
import { readVersion } from '../sys/home.ts';
import { takeHandedFds } from '../sys/service.ts';
import { programLog } from '../sys/program-log.ts';
import { joinService } from '../tap/service.ts';
import { driverView } from '../xenstore/driver-view.ts';
import { openStore } from '../xenstore/open.ts';
import { type Config, loadConfig } from './config.ts';
import { startDaemon } from './daemon.ts';
import { serveApi } from './serve-api.ts';
import { blkbackDriver, kernelBackends } from './kernel-backends.ts';
import { followDeviceModels } from './device-models.ts';
import { imageKeys } from './image-keys.ts';
import { watchRoom } from './low-room.ts';
import { vbddOptions } from './options.ts';
import { openRunFolder } from './outcomes.ts';
import { scriptTest } from './scripts.ts';
import { openTap, type WatchedTap } from './tap-client.ts';

const LOW_ROOM_LOOK_MS = 10_000;
const commandLine = parsedOptions(vbddOptions);

/**
 * The options of the command line, each winning over the configuration's key of that name.
 * @throws Failure invalid
 */
function readOptions(args: string[]): { config: string | undefined; overrides: Partial<Config> } {
  const { config, script, 'log-level': level, 'grace-seconds': grace, ...same } = words(args);
  return {
    config,
    overrides: {
      ...same,
      ...(script === undefined ? {} : { scripts: script }),
      ...(level === undefined ? {} : { log_level: level }),
      ...(grace === undefined ? {} : { grace_seconds: Number(grace) }),
    } as Partial<Config>,
  };
}

function words(
  args: string[],
): ReturnType<typeof parseArgs<{ options: typeof commandLine }>>['values'] {
  try {
    return parseArgs({ args, options: commandLine }).values;
  } catch (thrown) {
    const said = thrown instanceof Error ? thrown.message : String(thrown);
    throw new Failure('invalid', `${asSentence(said)} — see vbdd --help`, {}, thrown);
  }
}

function findProgram(name: string): string | undefined {
  const folders = (process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin').split(delimiter);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

function openTapOf(config: Config): WatchedTap {
  const limits = {
    iops: config.limit_iops,
    bytesPerSecond: config.limit_bytes_per_second,
    burstSeconds: config.limit_burst_seconds,
  };
  return openTap(config.tap, config.tap_seconds * 1000, {
    folders: config.image_folders,
    limits,
    keys: imageKeys(config.image_keys),
  });
}

async function stopSignal(): Promise<void> {
  const stopped = Promise.withResolvers<void>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.once(signal, () => stopped.resolve());
  await stopped.promise;
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  const version = readVersion();
  if (args.includes('--help')) return void process.stdout.write(usageOf('vbdd', vbddOptions));
  if (args.includes('--version')) return void process.stdout.write(`vbdd ${version}\n`);
  const { config: configPath, overrides } = readOptions(args);
  const config = loadConfig(configPath, overrides);
  const log = programLog('vbdd', process.env, config.log_level);

  await using stack = new AsyncDisposableStack();
  const folder = stack.use(openRunFolder(dirname(config.socket)));
  const whole = stack.use(await openStore({ path: config.store }));
  const ownDomid = Number((await whole.read('domid')) ?? 0);
  const store = ownDomid === 0 ? whole : driverView(whole);
  const onFault = (sentence: string): void => log('warning', sentence);
  const service = stack.use(joinService(process.env, process.pid, onFault));
  const loops = stack.use(
    createLoopPool(loopKernel(), {
      spare: config.spare_loops,
      onFault,
      stash: service.manager === undefined ? undefined : managerStash(service.manager, onFault),
      handed: takeHandedFds(process.env, process.pid),
    }),
  );
  loops.replenish();
  const devices = stack.use(createDevicePool());
  const tap = config.tap === '' ? undefined : stack.use(openTapOf(config));
  const nbd = stack.use(nbdKernel(join(config.sysfs, 'block')));
  const modelsFolder = join(dirname(config.socket), 'device-models');
  const models = stack.use(await followDeviceModels({ folder: modelsFolder, store, log }));
  const daemon = stack.use(
    await startDaemon({
      store,
      loops,
      devices,
      log,
      isOurs: scriptTest(config.scripts),
      backendOf: kernelBackends(config.sysfs),
      blkback: blkbackDriver(config.sysfs),
      // Nobody starts a qemu in a driver domain but `xl devd`, whose place this is.
      standsIn: (domid) => ownDomid !== 0 || models.standsIn(domid),
      driverDomain: ownDomid !== 0,
      tap,
      images: config.images,
      whenFull: (path) => config.when_full_of[path] ?? config.when_full,
      nbd,
      graceMs: config.grace_seconds * 1000,
      sweepMs: config.sweep_seconds * 1000,
    }),
  );
  stack.use(watchRoom(daemon, { percent: config.low_room_percent, everyMs: LOW_ROOM_LOOK_MS }));
  stack.use(folder.follow(daemon.disks, log));
  models.onChange((domid) => daemon.disks.callAll(({ key }) => key.domid === domid));
  const xl = config.xl === 'auto' ? findProgram('xl') : undefined;
  stack.use(await serveApi({ daemon, config, tap, version, xl, ownDomid }));
  log(
    'notice',
    `vbdd ${version} is ready, ${daemon.disks.records.size} disks, at ${config.socket}`,
  );
  loops.releaseUnclaimed();
  service.ready();
  // Now, as one that is killed leaves nothing of it to its successor.
  flushCompileCache();

  await stopSignal();
  service.stopping();
  log('notice', 'vbdd stops; guests keep their disks');
}

try {
  await main();
} catch (thrown) {
  process.stderr.write(`vbdd: ${sentenceOf(thrown)}\n`);
  if (!(thrown instanceof Failure) && thrown instanceof Error)
    process.stderr.write(`${thrown.stack}\n`);
  process.exitCode = thrown instanceof Failure ? thrown.exitCode : 1;
}
