/**
 * The machine under the embedded host: dom0's kernel with its block backend, and domains with a
 * kernel each, around one store. Toolstacks act on it from embedded-host.ts, or from other
 * processes through the store's socket.
 */
import type { NbdKernel } from '../backend/nbd-kernel.ts';
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { StoreServer } from '../xenstore/embedded/server.ts';
import type { Store } from '../xenstore/store.ts';
import { createGuestMemory, removeGuestMemory } from '../ring/guest-memory.ts';
import { isBound } from './backend-sysfs.ts';
import { startBlkback } from './blkback.ts';
import { SHARED_PAGES } from './blkfront.ts';
import { type GuestKernel, startGuestKernel } from './guest-kernel.ts';
import { createNbdDevices } from './nbd-devices.ts';
import { createRings } from './rings.ts';

export interface MachineOptions {
  readonly server: StoreServer;
  /** Stands for /sys where the kernel's block backend shows what it has open. */
  readonly sysfsDir: string;
  /** Where guests share memory with backends in other processes; without it there are none. */
  readonly guestsFolder?: string | undefined;
  readonly log?: Log | undefined;
  /** Connections for the kernels; those of the server unless said. */
  readonly connect?: ((domid: number) => Store) | undefined;
}

/** Disposing it is a power cut: kernels do nothing more, and every device is let go of. */
export interface Machine extends AsyncDisposable {
  /** dom0's nbd devices, as one vbdd uses them; disposing it lets go of all that it holds. */
  openNbd(): NbdKernel;
  /** Resolves when dom0's block backend has dealt with all that was written until now. */
  settled(): Promise<void>;
  /** Makes the domain known to the store; it does nothing until it is booted. */
  introduce(domid: number): void;
  /** Starts a kernel in the domain. */
  boot(domid: number): Promise<void>;
  /**
   * The kernel of a domain that was booted and is there still.
   * @throws Failure gone
   */
  kernel(domid: number): GuestKernel;
  /** Resolves with the reason when the domain's kernel has stopped by itself. */
  stopped(domid: number): Promise<string>;
  /** The domain does nothing from here on; what it wrote stays. */
  pause(domid: number): void;
  /** Ends the domain at once, in the middle of whatever it does. */
  release(domid: number): void;
}

interface Domain {
  kernel: GuestKernel | undefined;
  /** Ends a kernel that has only begun to boot, too. */
  readonly gone: AbortController;
  readonly stopped: PromiseWithResolvers<string>;
}

/** Starts dom0's kernel with its block backend, and no domains. */
export async function startMachine(options: MachineOptions): Promise<Machine> {
  const {
    server,
    sysfsDir,
    guestsFolder,
    log,
    connect = (domid) => server.connect(domid),
  } = options;
  const rings = createRings();
  const domains = new Map<number, Domain>();
  const dom0 = connect(0);
  await Promise.all([
    dom0.write('/local/domain/0/domid', '0'),
    dom0.write('/local/domain/0/name', 'Domain-0'),
  ]);
  const nbd = createNbdDevices();
  const blkback = await startBlkback({ store: dom0, rings, sysfsDir, nbd, log });
  const find = (domid: number): Domain => {
    const domain = domains.get(domid);
    if (domain !== undefined) return domain;
    throw new Failure('gone', `there is no domain ${domid}`, { domid });
  };
  return {
    openNbd: () => nbd.kernel(),
    settled: () => blkback.settled(),
    introduce(domid) {
      server.introduce(domid);
      if (guestsFolder !== undefined) createGuestMemory(guestsFolder, domid, SHARED_PAGES);
      domains.set(domid, {
        kernel: undefined,
        gone: new AbortController(),
        stopped: Promise.withResolvers(),
      });
    },
    async boot(domid) {
      const domain = find(domid);
      domain.kernel = await startGuestKernel({
        store: connect(domid),
        gone: domain.gone.signal,
        domid,
        rings,
        guestsFolder,
        kernelServes: (path) => isBound(sysfsDir, path.split('/').slice(-3).join('-')),
        log,
        onStopped: (reason) => domain.stopped.resolve(reason),
      });
    },
    kernel(domid) {
      const { kernel } = find(domid);
      if (kernel !== undefined) return kernel;
      throw new Failure('gone', `domain ${domid} was not booted`, { domid });
    },
    stopped: (domid) => find(domid).stopped.promise,
    pause: (domid) => find(domid).kernel?.kill(),
    release(domid) {
      const { kernel, gone } = find(domid);
      kernel?.kill();
      gone.abort();
      domains.delete(domid);
      if (guestsFolder !== undefined) removeGuestMemory(guestsFolder, domid);
      server.release(domid);
    },
    async [Symbol.asyncDispose]() {
      for (const { kernel } of domains.values()) kernel?.kill();
      await blkback[Symbol.asyncDispose]();
      nbd[Symbol.dispose]();
      await dom0[Symbol.asyncDispose]();
    },
  };
}
