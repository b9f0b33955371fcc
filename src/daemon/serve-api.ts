/** What others may ask of a vbdd: its API on the control socket, its metrics there and by TCP. */
import { sentenceOf } from '../base/failure.ts';
import { peerOf, serveControl } from '../tap/control-server.ts';
import { accessOf } from './access.ts';
import type { Config } from './config.ts';
import type { Daemon } from './daemon.ts';
import { createEvents } from './events.ts';
import { createLeases } from './leases.ts';
import type { MetricsOptions } from './metrics.ts';
import { serveMetrics } from './metrics-server.ts';
import type { LoadApi } from './page-door.ts';
import type { WatchedTap } from './tap-client.ts';
import { createTally } from './tally.ts';

export interface ApiOptions {
  readonly daemon: Daemon;
  readonly config: Config;
  readonly tap: WatchedTap | undefined;
  readonly version: string;
  /** The xl program, or undefined where there is none or it is not to be used. */
  readonly xl: string | undefined;
  readonly ownDomid: number;
}

/** Answers until it is disposed; the code for it is loaded with the first request. @throws Failure */
export async function serveApi(options: ApiOptions): Promise<AsyncDisposable> {
  const { daemon, config, tap, version, xl, ownDomid } = options;
  const { log } = daemon.world;
  await using stack = new AsyncDisposableStack();
  const leases = stack.use(createLeases(daemon));
  const events = stack.use(createEvents(daemon));
  const tally = stack.use(createTally(daemon));
  const { sysfs, metrics_disks: mostDisks, metrics_listen: address } = config;
  const names = new Map<number, string>();
  const metrics = oneLookAtATime({ daemon, tap, tally, version, sysfs, names, mostDisks });
  const open = async (port: () => Promise<AsyncDisposable>): Promise<void> => {
    try {
      stack.use(await port());
    } catch (thrown) {
      // Guests' disks do not wait for it.
      log('error', sentenceOf(thrown));
    }
  };
  if (address !== '') await open(() => serveMetrics(address, metrics));
  const verbs = { xl, scriptDir: config.script_dir, ownDomid };
  const parts = { daemon, leases, events, verbs, version, metrics, sysfs };
  const loadFor: LoadApi = async (peerOf) =>
    (await import('./control.ts')).controlApi({ ...parts, peerOf });
  if (config.page_listen !== '') {
    await open(async () => (await import('./page-door.ts')).servePage(config, loadFor, log));
  }
  const load = () => loadFor(peerOf);
  stack.use(await serveControl('vbdd', load, config.socket, log, accessOf(config)));
  return stack.move();
}

/** Who asks while it is looking gets that look's answer: a file system may hang. */
function oneLookAtATime(options: MetricsOptions): () => Promise<string> {
  let looking: Promise<string> | undefined;
  const look = async (): Promise<string> => (await import('./metrics.ts')).metricsText(options);
  return () => {
    looking ??= look().finally(() => {
      looking = undefined;
    });
    return looking;
  };
}
