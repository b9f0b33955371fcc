/**
 * What a backend needs of a hypervisor: pages that guests granted, and event channels. Xen's device
 * files are one of it (xen-hypervisor.ts), the embedded host's twins another; one suite passes on both.
 */

/** Memory that stays where it is: a view and its address. */
export interface FixedMemory {
  readonly view: Uint8Array;
  readonly address: number;
}

/** The same, seen as 32-bit words too. */
export interface WordMemory extends FixedMemory {
  readonly words: Int32Array;
}

/** Granted pages as one range; disposing it unmaps them. No view of it may be used afterwards. */
export interface MappedGrants extends Disposable {
  readonly address: number;
  readonly memory: ArrayBuffer;
}

/** Copies between one guest's granted pages and memory of ours: queued, then done in one call. */
export interface GrantCopier extends Disposable {
  readonly capacity: number;
  queued: number;
  /**
   * Queues a copy within one page of the guest's.
   * @returns its number, whose `failed` says how it went after `run`
   */
  add(
    direction: 'from guest' | 'to guest',
    reference: number,
    pageOffset: number,
    memoryOffset: number,
    lengthBytes: number,
  ): number;
  /** Does what was queued and empties the queue. @returns whether all of it was done */
  run(): boolean;
  /** 1 for each copy of the last run that was not done: the grant was withdrawn, or never given. */
  readonly failed: Uint8Array;
}

export interface Hypervisor extends Disposable {
  /** @throws Failure gone when the guest does not grant them (any more) */
  mapGrants(domid: number, references: readonly number[]): MappedGrants;
  copier(domid: number, memory: FixedMemory, capacity: number): GrantCopier;
  /**
   * Binds to the guest's event channel.
   * @returns the port here
   * @throws Failure in-use when another backend has it; gone
   */
  bind(domid: number, remotePort: number): number;
  unbind(port: number): void;
  notify(port: number): void;
  /** Readable when an event waits. */
  readonly fd: number;
  /**
   * Takes the ports with events; they tell of no further one until they are unmasked.
   * @returns how many of `ports` were filled
   */
  take(ports: Uint32Array): number;
  unmask(ports: Uint32Array, count: number): void;
}
