/** A worker's loop over the embedded hypervisor, guests' rings on it, and a raw file behind each. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { embeddedHypervisor } from '../../src/ring/embedded-hypervisor.ts';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { createEngine } from '../../src/image/engine.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { openImage, type OpenOptions } from '../../src/image/open.ts';
import { type Abi, abis, entriesOf } from '../../src/ring/blkif.ts';
import { createLimiter } from '../../src/ring/limiter.ts';
import { recordBytes } from '../../src/ring/record.ts';
import type { RingDisk } from '../../src/ring/request.ts';
import type { ServedDisk, WhenFull } from '../../src/ring/request-work.ts';
import type { SlotCounts } from '../../src/ring/slots.ts';
import {
  type DiskStatistics,
  readStatistics,
  STATISTICS_BYTES,
  statisticsPage,
} from '../../src/ring/statistics.ts';
import {
  createRingLoop,
  type RingLoop,
  type RingOptions,
  type ServedRing,
} from '../../src/tap/ring-loop.ts';
import { patienceMs } from '../patience.ts';

const DATA_PAGES = 600;

export interface RigOptions {
  readonly abi?: Abi;
  readonly ringPages?: number;
  readonly diskBytes?: number;
  readonly slots?: SlotCounts;
  /** Whether the engine may use io_uring. */
  readonly uring?: boolean;
  readonly persistent?: boolean;
  readonly changes?: Partial<RingDisk>;
  readonly whenFull?: WhenFull;
  /** Opens the disk's file. */
  readonly openBytes?: OpenOptions['openBytes'];
  /** An image that is there, in place of a new raw file. */
  readonly path?: string;
  readonly direct?: boolean;
}

export interface RingGuest {
  readonly frontend: RingFrontend;
  readonly served: ServedRing;
  readonly disk: ServedDisk;
  readonly statistics: () => DiskStatistics;
  readonly path: string;
  readonly place: RingOptions;
  /** What was told of a ring that makes no sense. */
  readonly hostile: () => boolean;
}

export interface RingRig extends Disposable {
  readonly folder: string;
  readonly loop: RingLoop;
  addGuest(options?: RigOptions): RingGuest;
  /** Another backend takes up the ring of one that answers nothing more. */
  replace(guest: RingGuest): void;
}

export function startRingRig(options: RigOptions = {}): RingRig {
  using stack = new DisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-ring-'));
  stack.defer(() => rmSync(folder, { recursive: true }));
  const files = stack.use(createFileTable());
  const engine = stack.use(createEngine(files, { uring: options.uring }));
  const hypervisor = stack.use(embeddedHypervisor(folder));
  const loop = stack.use(createRingLoop({ hypervisor, engine, slots: options.slots }));
  const owned = stack.move();
  let lastDomid = 0;
  return {
    folder,
    loop,
    addGuest(own = {}) {
      const all = { ringPages: 1, diskBytes: 1 << 20, ...options, ...own };
      const abi = all.abi ?? abis[0];
      if (abi === undefined) throw new Error('there is no ABI');
      const domid = ++lastDomid;
      const path = all.path ?? join(folder, `disk-${domid}.img`);
      if (all.path === undefined) {
        writeFileSync(path, '');
        truncateSync(path, all.diskBytes);
      }
      const { openBytes, direct } = all;
      const image = openImage(path, { format: 'raw', writable: true, files, openBytes, direct });
      const rules: RingDisk = {
        sectors: all.diskBytes / 512,
        sectorBytes: 512,
        readOnly: false,
        canFlush: true,
        canDiscard: true,
        mostIndirectSegments: 256,
        ...all.changes,
      };
      createGuestMemory(folder, domid, all.ringPages + DATA_PAGES);
      const frontend = owned.use(
        createRingFrontend({
          folder,
          domid,
          abi,
          ringPages: all.ringPages,
          firstPage: 0,
          dataPages: DATA_PAGES,
          persistent: all.persistent,
          indirectSegments: rules.mostIndirectSegments,
        }),
      );
      const page = new ArrayBuffer(STATISTICS_BYTES);
      const statistics = statisticsPage(page, Date.now());
      const disk: ServedDisk = {
        image,
        rules,
        limiter: createLimiter(),
        statistics,
        whenFull: all.whenFull ?? 'pause',
        onFull: () => {},
      };
      let isHostile = false;
      const place: RingOptions = {
        domid,
        abi,
        references: frontend.ringReferences,
        port: frontend.port,
        persistent: all.persistent ?? false,
        disk,
        record: new ArrayBuffer(recordBytes(entriesOf(abi, all.ringPages))),
        takeUp: false,
        onHostile: () => {
          isHostile = true;
        },
      };
      const served = loop.add(place);
      const read = (): DiskStatistics => {
        const found = readStatistics(page);
        if (found === undefined) throw new Error('nothing was counted');
        return found;
      };
      return { frontend, served, disk, statistics: read, path, place, hostile: () => isHostile };
    },
    replace({ served, place }) {
      const state = { isQuiet: false };
      served.close(() => {
        state.isQuiet = true;
      });
      while (!state.isQuiet) loop.pass(0);
      loop.add({ ...place, takeUp: true });
    },
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

const SETTLE_MS = patienceMs(30_000);

/** Passes until everything that guests have begun is answered. */
export function settle(rig: RingRig, guests: readonly RingGuest[]): void {
  const untilMs = performance.now() + SETTLE_MS;
  for (;;) {
    for (const { frontend } of guests) frontend.poll();
    if (guests.every(({ frontend }) => frontend.inFlight === 0)) return;
    if (performance.now() > untilMs) throw new Error('requests are not answered');
    rig.loop.pass(100);
  }
}
