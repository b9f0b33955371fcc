/** Faults of xenstore and of clocks, met by what an admin asks of disks. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { changeMedium } from '../../src/daemon/media.ts';
import { pause } from '../../src/daemon/pause.ts';
import { detach, resize } from '../../src/daemon/verbs.ts';
import { rawFile, startTestHost } from '../host/test-host.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';
import {
  drive,
  image,
  type Named,
  nothingLeft,
  page,
  type Played,
  scenariosOf,
  theKit,
  withDisk,
} from './fault-kit.ts';
import { until } from '../patience.ts';
import type { Outcome } from './faults-of-rings.ts';
import { SIZE_BYTES, spec, type TapKit } from './tap-kit.ts';
import { startTestDaemon, xvdaOn } from './test-daemon.ts';

type Ask = (played: Played) => Promise<unknown>;

const verbs = { xl: undefined, scriptDir: '/etc/xen/scripts', ownDomid: 0 };
const grow: Ask = ({ kit }) => resize(kit.vbdd, 'web', 'xvda', 2 * SIZE_BYTES);
const hold: Ask = ({ kit }) => pause(kit.vbdd, 'web', 'xvda', true);

/** A drive where a medium is to come, else a disk. */
async function diskFor(operation: string): Promise<string> {
  const kit = await theKit();
  return operation === 'insert' ? drive : spec('qcow2', image(kit, 'qcow2'));
}

function putIn(path: string): Ask {
  return ({ kit }) => changeMedium(kit.vbdd, 0, 'web', 'xvda', path);
}

async function comeBack(kit: TapKit): Promise<void> {
  const before = kit.vbdd.lines.length;
  kit.host.server.comeBack();
  await until('xenstored is back', () =>
    kit.vbdd.lines.slice(before).some((line) => line.includes('xenstored is back')),
  );
  await kit.vbdd.disks.settled();
}

/** It is refused at once, changes nothing, and is done when the store is back. */
const withoutStore = (operation: string, ask: Ask) => async (): Promise<Outcome> =>
  withDisk(await diskFor(operation), async (played) => {
    const { kit, disk } = played;
    const { sectors } = disk.description;
    kit.host.server.goAway();
    await assert.rejects(ask(played), { kind: 'unavailable' });
    await comeBack(kit);
    assert.equal(disk.description.sectors, sectors);
    const [opened] = (await kit.opened()) as { sectors: number; paused: string | null }[];
    assert.deepEqual([opened?.sectors, opened?.paused], [sectors, null]);
    await ask(played);
    return 'refused';
  });

/** The store has forgotten everything, and the kernel nothing. */
async function withLess(operation: 'write' | 'attach' | 'detach'): Promise<Outcome> {
  await using host = await startTestHost();
  await using vbdd = await startTestDaemon(host, { backendOf: () => 'there' });
  const file = rawFile(host, 'a.img');
  const guest = await host.createGuest({ name: 'web', disks: [xvdaOn(file)] });
  const disk = await guest.disk('xvda');
  host.server.goAway();
  host.server.comeBack({ forget: true });
  await until('it is reported', () =>
    vbdd.lines.some((line) => line.includes('its nodes vanished')),
  );
  await vbdd.scan();
  assert.equal(boundLoops(host.dir).size, 1);
  if (operation === 'write') return disk.write(0, page).then(() => 'done');
  if (operation === 'detach') {
    await assert.rejects(detach(vbdd, verbs, 'web', 'xvda', false), /there is no guest web/);
  } else {
    const second = host.createGuest({ name: 'db', disks: [xvdaOn(file)] });
    await assert.rejects(second, /a\.img is in use/);
    await host.createGuest({ name: 'mail', disks: [xvdaOn(rawFile(host, 'b.img'))] });
  }
  assert.equal(boundLoops(host.dir).size, operation === 'attach' ? 2 : 1);
  return 'refused';
}

const withoutNodes = (ask: Ask) => async (): Promise<Outcome> =>
  withDisk(await diskFor('write'), async (played) => {
    const { kit, guest } = played;
    await kit.host.store.remove(`/local/domain/0/backend/vbd3/${guest.domid}/51712`);
    await until('it is reported', () =>
      [...kit.vbdd.disks.records.values()].some(({ because }) =>
        because.some((why) => why.includes('nodes vanished')),
      ),
    );
    const [before] = (await kit.opened()) as { sectors: number }[];
    const outcome = await ask(played).then(
      () => 'done' as const,
      (thrown: unknown) => {
        assert.match(String(thrown), /the store has no nodes of it any more/);
        return 'refused' as const;
      },
    );
    const [after] = (await kit.opened()) as { sectors: number }[];
    if (outcome === 'refused') assert.equal(after?.sectors, before?.sectors);
    return outcome;
  });

const letGo: Ask = async ({ kit }) => {
  await detach(kit.vbdd, verbs, 'web', 'xvda', false);
  await nothingLeft(kit);
};

/** A toolstack's words that vbdd does not hear of. */
async function withoutEvents(operation: 'insert' | 'death'): Promise<Outcome> {
  const kit = await theKit();
  const medium = image(kit, 'raw');
  return withDisk(drive, async ({ guest, disk }) => {
    const { store } = kit.host;
    const backend = `/local/domain/0/backend/vbd3/${guest.domid}/51712`;
    kit.vbdd.events.deaf = true;
    if (operation === 'insert') {
      await store.write(`${backend}/params`, `aio:${medium}`);
    } else await guest.crash();
    await sleep(50);
    const isDone = async (): Promise<boolean> =>
      operation === 'insert'
        ? disk.description.sectors > 0
        : (await store.directory(backend)) === undefined;
    const first = (await isDone()) ? 'done' : 'waits';
    await kit.vbdd.scan();
    kit.vbdd.events.deaf = false;
    await until('it is seen by the sweep', isDone);
    return first;
  });
}

/** Both ways, by years. */
const clockJumps = (ask: Ask) => async (): Promise<Outcome> => {
  const { now } = Date;
  let outcome: Outcome = 'waits';
  for (const byMs of [3e11, -3e11]) {
    Date.now = () => now() + byMs;
    try {
      outcome = await withDisk(await diskFor('write'), async (played) => {
        await ask(played);
        return 'done';
      });
    } finally {
      Date.now = now;
    }
  }
  return outcome;
};

const root = needsLoop();

export const askedStoreFault: readonly Named[] = scenariosOf([
  ['xenstored gone: resize', withoutStore('resize', grow), root],
  [
    'xenstored gone: insert',
    async () => withoutStore('insert', putIn(image(await theKit(), 'raw')))(),
    root,
  ],
  ['xenstored gone: pause', withoutStore('pause', hold), root],
  ['xenstored back with less: write', () => withLess('write'), root],
  ['xenstored back with less: attach', () => withLess('attach'), root],
  ['xenstored back with less: detach', () => withLess('detach'), root],
  ['backend directory deleted: write', withoutNodes(({ disk }) => disk.write(0, page)), root],
  ['backend directory deleted: resize', withoutNodes(grow), root],
  ['backend directory deleted: detach', withoutNodes(letGo), root],
  ['an event of xenstore lost: insert', () => withoutEvents('insert'), root],
  ['an event of xenstore lost: end of the guest', () => withoutEvents('death'), root],
  ['the clock jumps: detach', clockJumps(letGo), root],
  ['the clock jumps: pause', clockJumps(hold), root],
]);
