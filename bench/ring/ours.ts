/**
 * A process of the ring bench: our worker's loop for one guest. Arguments: the guests' folder, the
 * guest, its image, a file for the record, and `null` where nothing is to be read or written.
 */
import { truncateSync, writeFileSync, writeSync } from 'node:fs';
import { createEngine } from '../../src/image/engine.ts';
import type { Engine } from '../../src/image/engine-contract.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import { openImage } from '../../src/image/open.ts';
import { abis } from '../../src/ring/blkif.ts';
import { embeddedHypervisor } from '../../src/ring/embedded-hypervisor.ts';
import { createLimiter } from '../../src/ring/limiter.ts';
import { STATISTICS_BYTES, statisticsPage } from '../../src/ring/statistics.ts';
import { O, openFd } from '../../src/sys/fd.ts';
import { mapShared } from '../../src/sys/memory.ts';
import { createRingLoop } from '../../src/tap/ring-loop.ts';
import { RECORD_BYTES } from './guests.ts';

const [folder = '', domid = '', imagePath = '', recordPath = '', kind] = process.argv.slice(2);
const [abi] = abis;
if (abi === undefined) throw new Error('there is no ABI');

function mapFile(path: string, sizeBytes: number): ArrayBuffer {
  writeFileSync(path, '');
  truncateSync(path, sizeBytes);
  const fd = openFd(path, O.RDWR);
  return mapShared(fd.number, 0, sizeBytes).memory;
}

/** Does everything at once, and nothing. */
function nullEngine(): Engine {
  const done = (): number => 0;
  return {
    read: done,
    write: done,
    zero: done,
    discard: done,
    flush: done,
    resize: done,
    close: done,
    fd: undefined,
    submit() {},
    reap() {},
    pending: 0,
    [Symbol.dispose]() {},
  };
}

const files = createFileTable();
const engine = kind === 'null' ? nullEngine() : createEngine(files);
const image = openImage(imagePath, { format: 'raw', writable: true, files });
const loop = createRingLoop({ hypervisor: embeddedHypervisor(folder), engine });
const statistics = statisticsPage(mapFile(`${recordPath}.statistics`, STATISTICS_BYTES), 0);
loop.add({
  domid: Number(domid),
  abi,
  references: [8],
  port: 1,
  persistent: false,
  disk: {
    image,
    rules: {
      sectors: image.sizeBytes / 512,
      sectorBytes: 512,
      readOnly: false,
      canFlush: true,
      canDiscard: true,
      mostIndirectSegments: 256,
    },
    limiter: createLimiter(),
    whenFull: 'pause',
    onFull: () => {},
    statistics,
  },
  record: mapFile(recordPath, RECORD_BYTES),
  takeUp: false,
  onHostile() {
    throw new Error('the guest is hostile');
  },
});
writeSync(1, 'ready\n');
for (;;) loop.pass(-1);
