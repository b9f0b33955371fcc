/**
 * The stand-ins write what a real Xen's libxl, blkback and blkfront write: node by node, as traced
 * by the xenstored of Xen 4.17 with Linux 6.1 in dom0 and guest.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { corpusDir, needsLoop } from '../peers.ts';
import { type Actor, parseTrace, type Row, rowsOf, statesOf, type Write } from './store-writes.ts';
import {
  createWithDisk,
  hotplug,
  rawFile,
  startTestHost,
  testLoop,
  type TestHost,
  waitFor,
} from './test-host.ts';
import * as rows from './trace-rows.ts';

const xvda = 51712;
const xvdb = 51728;

interface Scenario {
  readonly name: string;
  /** The trace of a real Xen. */
  readonly trace: string;
  /** The disk that it is about. */
  readonly devid: number;
  /** What each actor writes, in its own order; of that disk alone for a guest that has others. */
  readonly rows: Readonly<Record<Actor, readonly Row[]>>;
  readonly onlyThatDisk?: boolean;
  /** Who writes which state, in the order of all actors. */
  readonly states: string;
  /** Does it here, after it has emptied `host.writes` of what does not belong to it. */
  readonly play: (host: TestHost) => Promise<void>;
}

const created = 'libxl 1, libxl 1, blkback 2, guest 3, blkback 4, guest 4';
const closed = 'guest 5, blkback 5, guest 6, blkback 6';
const wholeLife = (mode: 'r' | 'w'): Scenario['rows'] => ({
  libxl: [...rows.domain, ...rows.attach(xvda, 'xvda', mode), ...rows.end(xvda, 'closed')],
  blkback: [
    ...rows.backendBegins(xvda),
    ...rows.backendConnects(xvda, mode),
    ...rows.backendStates(xvda, 5, 6),
  ],
  guest: [...rows.guestBoots, ...rows.guestConnects(xvda), ...rows.guestStates(xvda, 5, 6)],
});

/** A guest's whole life with one disk; the guest powers off by itself. */
async function liveWith(host: TestHost, mode: 'r' | 'w', onDevice = false): Promise<void> {
  const file = rawFile(host, 'a.img');
  using loop = testLoop(file, mode === 'r');
  const guest = await createWithDisk(host, `${onDevice ? loop.path : file},raw,xvda,${mode}`, loop);
  await (await guest.disk('xvda')).read(0, 8);
  await guest.powerOff();
}

const scenarios: Scenario[] = [
  {
    name: 'a guest with a raw file, from its creation to its own power-off',
    trace: 't1-file-phy',
    devid: xvda,
    rows: wholeLife('w'),
    states: `${created}, ${closed}`,
    play: (host) => liveWith(host, 'w'),
  },
  {
    name: 'a guest with a block device',
    trace: 't2-blockdev-phy',
    devid: xvda,
    rows: wholeLife('w'),
    states: `${created}, ${closed}`,
    play: (host) => liveWith(host, 'w', true),
  },
  {
    name: 'a guest with a read-only file',
    trace: 't3-readonly',
    devid: xvda,
    rows: wholeLife('r'),
    states: `${created}, ${closed}`,
    play: (host) => liveWith(host, 'r'),
  },
  {
    name: 'a disk that is attached to a running guest and detached again',
    trace: 't6-hotplug',
    devid: xvdb,
    onlyThatDisk: true,
    rows: {
      libxl: [...rows.attach(xvdb, 'xvdb', 'w'), ...rows.detach(xvdb)],
      blkback: [
        ...rows.backendBegins(xvdb),
        ...rows.backendConnects(xvdb, 'w'),
        ...rows.backendStates(xvdb, 6),
      ],
      guest: [...rows.guestConnects(xvdb), ...rows.guestStates(xvdb, 6)],
    },
    states: `${created}, libxl 5, guest 6, blkback 6`,
    async play(host) {
      using first = testLoop(rawFile(host, 'a.img'));
      const file = rawFile(host, 'b.img');
      using second = testLoop(file);
      const guest = await createWithDisk(host, `${file},raw,xvda,rw`, first);
      const attaching = guest.attach(`${file},raw,xvdb,rw`);
      await waitFor(host.store, `/local/domain/${guest.domid}/device/vbd/${xvdb}/state`, '3');
      await hotplug(host.script, guest.domid, xvdb, second.physicalDevice);
      await attaching;
      await guest.disk('xvdb');
      await guest.detach('xvdb');
    },
  },
  {
    name: 'a guest that is asked to shut down',
    trace: 't8-shutdown',
    devid: xvda,
    rows: {
      libxl: ['WRITE /local/domain/D/control/shutdown poweroff', ...rows.end(xvda, 'closed')],
      blkback: rows.backendStates(xvda, 5, 6),
      guest: ['WRITE control/shutdown', ...rows.guestStates(xvda, 5, 6)],
    },
    states: closed,
    async play(host) {
      const file = rawFile(host, 'a.img');
      using loop = testLoop(file);
      const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
      await guest.disk('xvda');
      host.writes.length = 0;
      await guest.shutdown();
    },
  },
  {
    name: 'a guest that is destroyed',
    trace: 't9-destroy',
    devid: xvda,
    rows: { libxl: rows.end(xvda, 'open'), blkback: rows.backendStates(xvda, 6), guest: [] },
    states: 'libxl 5, blkback 6',
    async play(host) {
      const file = rawFile(host, 'a.img');
      using loop = testLoop(file);
      const guest = await createWithDisk(host, `${file},raw,xvda,rw`, loop);
      await guest.disk('xvda');
      host.writes.length = 0;
      await guest.destroy();
    },
  },
  {
    name: 'a guest whose disk the hotplug step refuses',
    trace: 't12-scripterror',
    devid: xvda,
    rows: {
      libxl: [...rows.domain, ...rows.attach(xvda, 'xvda', 'w'), ...rows.end(xvda, 'open')],
      blkback: [...rows.backendBegins(xvda), ...rows.backendStates(xvda, 6)],
      guest: [],
    },
    states: 'libxl 1, libxl 1, blkback 2, libxl 5, blkback 6',
    async play(host) {
      const backend = `/local/domain/0/backend/vbd/1/${xvda}`;
      const disks = [`${rawFile(host, 'a.img')},raw,xvda,rw`];
      const creating = assert.rejects(host.createGuest({ name: 'g', disks }), {
        message: 'the chain has no such image',
      });
      await waitFor(host.store, `${backend}/state`, '2');
      await host.script.write(`${backend}/hotplug-error`, 'the chain has no such image');
      await host.script.write(`${backend}/hotplug-status`, 'error');
      await creating;
    },
  },
];

function check(scenario: Scenario, writes: readonly Write[]): void {
  const devid = scenario.onlyThatDisk === true ? scenario.devid : undefined;
  for (const actor of ['libxl', 'blkback', 'guest'] as const) {
    assert.deepEqual(rowsOf(writes, actor, devid), scenario.rows[actor], actor);
  }
  assert.equal(statesOf(writes, scenario.devid).join(', '), scenario.states);
}

for (const scenario of scenarios) {
  test(`${scenario.name}: the stand-ins write as expected`, needsLoop(), async () => {
    await using host = await startTestHost();
    await scenario.play(host);
    await host.machine.settled();
    check(scenario, host.writes);
  });

  const path = join(corpusDir, '..', 'reference', 'xen-traces', `${scenario.trace}.writes.txt`);
  const skip = existsSync(path) ? false : 'no traces in ../shared beside this checkout';
  test(`${scenario.name}: a real Xen writes as expected`, { skip }, () => {
    check(scenario, parseTrace(readFileSync(path, 'utf8')));
  });
}
