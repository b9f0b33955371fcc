/**
 * A guest's kernel as far as its disks need one: its own connection to the store, its block
 * frontends, and the orderly end that a toolstack asks for in `control/shutdown`.
 */
import { sentenceOf } from '../base/failure.ts';
import { type Log, silentLog } from '../base/log.ts';
import type { Store } from '../xenstore/store.ts';
import { type Blkfront, startBlkfront } from './blkfront.ts';
import { kernelStore } from './kernel-store.ts';
import type { Rings } from './rings.ts';

export interface GuestKernelOptions {
  /** The guest's own connection; the kernel's until it ends. */
  readonly store: Store;
  readonly domid: number;
  /** The domain has ended: a kernel that is still starting waits for nothing any more. */
  readonly gone?: AbortSignal | undefined;
  readonly rings: Rings;
  readonly guestsFolder?: string | undefined;
  /** Whether dom0's kernel serves the disk of a backend's path; it serves all unless said. */
  readonly kernelServes?: ((backendPath: string) => boolean) | undefined;
  readonly log?: Log | undefined;
  /** Called once, when the kernel has stopped by itself: `poweroff` or `reboot`. */
  readonly onStopped: (reason: string) => void;
}

export interface GuestKernel {
  readonly blkfront: Blkfront;
  /** Ends it in order, as its users or its toolstack ask for: disks first. */
  stop(reason: string): Promise<void>;
  /** Stops it where it is, as a crash or a destroyed domain does. */
  kill(): void;
}

const stopReasons = ['poweroff', 'halt', 'reboot'];

/** Boots a guest's kernel: it connects the disks that the store offers to it. */
export async function startGuestKernel(options: GuestKernelOptions): Promise<GuestKernel> {
  const { log = silentLog } = options;
  const store = kernelStore(options.store, options.gone);
  const endStore = (): void => {
    store.end();
    void options.store[Symbol.asyncDispose]();
  };
  options.gone?.addEventListener('abort', endStore, { once: true });
  let stopping = false;
  const stop = async (reason: string): Promise<void> => {
    if (stopping) return;
    stopping = true;
    await blkfront.shutdown();
    kill();
    options.onStopped(reason);
  };
  const shutdownAsked = async (): Promise<void> => {
    const reason = await store.transaction(async (tx) => {
      const asked = await tx.read('control/shutdown');
      if (asked !== undefined && asked !== '') void tx.write('control/shutdown', '');
      return asked ?? '';
    });
    if (stopReasons.includes(reason)) await stop(reason);
  };
  const kill = (): void => {
    blkfront.kill();
    endStore();
  };
  const warn = (thrown: unknown): void =>
    log('warning', `guest ${options.domid}: ${sentenceOf(thrown)}`);
  // A toolstack that made no such nodes gets a guest that only ends by force.
  const features = ['poweroff', 'reboot', 'suspend'];
  await Promise.all(
    features.map((name) => store.write(`control/feature-${name}`, '1').catch(warn)),
  );
  const blkfront = await startBlkfront(options);
  await store.observe('control/shutdown', () => {
    shutdownAsked().catch(warn);
  });
  return { blkfront, stop, kill };
}
