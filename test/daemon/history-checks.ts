/** Asks outsiders, when all is quiet, whether things are as a history's model says. */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseVdev } from '../../src/disk/vdev.ts';
import {
  type Disk,
  foreignDomids,
  isForeign,
  mayLinger,
  type Model,
  show,
} from './history-model.ts';
import { guestAt, type Play } from './history-play.ts';
import {
  backendDevices,
  dumpDisks,
  type DumpedDisk,
  forbiddenShares,
  loopPath,
  loopsBelow,
  openPaths,
  readTag,
} from './outsiders.ts';

const SETTLE_MS = 10_000;

/** Waits until everyone has done what is to be done, and all is as it should be. */
export async function settle(play: Play, model: Model): Promise<void> {
  const deadline = performance.now() + SETTLE_MS;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
    await play.site.host.machine.settled();
    const wrong = await whatIsWrong(play, model);
    if (wrong === undefined) break;
    if (performance.now() > deadline) {
      assert.fail(`${wrong}; vbdd said: ${play.site.vbdd.lines.slice(-4).join('; ')}`);
    }
    await sleep(pauseMs);
  }
  for (const [key, disk] of model.disks) {
    if (disk.state === 'new' || disk.state === 'shaky') disk.state = 'sound';
    if (disk.leaving && !mayLinger(model, disk)) model.disks.delete(key);
  }
  await useDisks(play, model);
}

/** What is wrong still; some things must never be. */
async function whatIsWrong(play: Play, model: Model): Promise<string | undefined> {
  const { site } = play;
  const dump = await dumpDisks(site.host.store, site.dir);
  // What a killed vbdd had freed may be anybody's now.
  const lost = new Set(
    [...model.disks.values()].flatMap((disk) => {
      const found = nodesOf(play, dump, disk);
      return found !== undefined && isLost(play, model, disk, found) ? [found] : [];
    }),
  );
  const sound = dump.filter((disk) => !lost.has(disk));
  const [share] = forbiddenShares(sound);
  if (share !== undefined) assert.fail(`forbidden share: ${JSON.stringify(share)}`);
  const bug = site.vbdd.lines.find((line) => /internal error|come to rest/.test(line));
  if (bug !== undefined) assert.fail(bug);
  const wrong = wrongNodes(play, model, dump) ?? wrongLoops(play, model, dump);
  return wrong ?? wrongOpens(play, model, dump, sound);
}

function nodesOf(play: Play, dump: readonly DumpedDisk[], disk: Disk): DumpedDisk | undefined {
  const domid = domidOf(play, disk);
  const devid = parseVdev(disk.vdev).number;
  return dump.find((each) => each.domid === domid && each.devid === devid);
}

/** Undefined when its holder is another script's, or was never created. */
function domidOf({ guests }: Play, { holder }: Disk): number | undefined {
  return isForeign(holder) ? undefined : guests.get(holder)?.domid;
}

/**
 * Its vbdd was killed before its backend opened the device: no file of ours is behind it now, or
 * someone else has the number, perhaps on that very file.
 */
function isLost(play: Play, model: Model, disk: Disk, found: DumpedDisk): boolean {
  if (disk.state === 'broken') return true;
  const isTaken = [...play.foreign.values()].some(({ path }) => path === deviceOf(found));
  // What no backend uses is free when its vbdd stops: the kernel may take a moment for it.
  const isLoose = disk.state === 'shaky' || (disk.state === 'unused' && !model.vbdd);
  return isLoose && (found.tag === undefined || isTaken);
}

/** The disks that guests have and use. */
function staying(model: Model): Disk[] {
  return [...model.disks.values()].filter(({ leaving, holder }) => !leaving && !isForeign(holder));
}

const isOurs = ({ domid }: DumpedDisk): boolean => domid < foreignDomids.qdisk;

/** Every disk has its nodes and the right device, and nobody else has nodes. */
function wrongNodes(play: Play, model: Model, dump: readonly DumpedDisk[]): string | undefined {
  const opened = backendDevices(play.site.sysfsDir);
  const left = new Set(dump.filter(isOurs));
  for (const disk of staying(model)) {
    const found = nodesOf(play, dump, disk);
    const says = `${show(disk)} has the nodes ${JSON.stringify(found)}`;
    if (found === undefined) return says;
    left.delete(found);
    const { nodes, tag } = found;
    if (nodes['hotplug-status'] !== 'connected' || nodes['online'] !== '1') return says;
    if (isLost(play, model, disk, found)) {
      disk.state = 'broken';
      continue;
    }
    if (tag !== disk.tag) return says;
    if (disk.state === 'unused') continue;
    const used = opened.get(`vbd-${found.domid}-${found.devid}`);
    const isUsed = nodes['state'] === '4' && used === deviceOf(found);
    if (disk.state === 'shaky' && used !== undefined && !isUsed) disk.state = 'unused';
    else if (!isUsed) return `${says}; its backend has ${used}`;
  }
  const lingering = [...model.disks.values()].filter((disk) => mayLinger(model, disk));
  const lingers = new Set(lingering.map((disk) => domidOf(play, disk)));
  const [over] = [...left].filter(
    (disk) => !mayBeOrphan(play, model, disk) && !lingers.has(disk.domid),
  );
  return over === undefined ? undefined : `nodes are left: ${JSON.stringify(over)}`;
}

/** Whether it may be an attach to a guest that died meanwhile, and of whose death vbdd was not told. */
function mayBeOrphan({ guests }: Play, model: Model, { domid }: DumpedDisk): boolean {
  return [...model.guests].some(
    ([slot, { forgotten }]) => forgotten && guests.get(slot)?.domid === domid,
  );
}

/** One loop device per file and mode, for whomever it takes, and no other. */
function wrongLoops(play: Play, model: Model, dump: readonly DumpedDisk[]): string | undefined {
  const { site, foreign } = play;
  const strayed = strayedBackends(play, model);
  const bound = loopsBelow(site.dir).map(({ path, tag, readOnly }) => ({
    loop: `${tag} ${readOnly ? 'r' : 'w'}`,
    isStrayed: strayed.has(path),
  }));
  // Whoever is owed a device has one that no backend strayed to, if there is one.
  const rest = bound.toSorted((one, other) => Number(one.isStrayed) - Number(other.isStrayed));
  const loopsOf = (disks: readonly Disk[]): string[] =>
    disks
      .filter(({ path, state }) => path !== 'c.dev' && state !== 'broken')
      .map(({ tag, mode }) => `${tag} ${mode === 'r' ? 'r' : 'w'}`);
  const all = [...model.disks.values()];
  const own = new Set(loopsOf(staying(model)));
  const others = foreign.has('block-iscsi')
    ? loopsOf(all.filter(({ holder }) => holder === 'block-iscsi'))
    : [];
  for (const owed of ['c w', ...others, ...own]) {
    const at = rest.findIndex(({ loop }) => loop === owed);
    if (at < 0)
      return `no loop device for ${owed} among ${rest.map(({ loop }) => loop).join(', ')}`;
    rest.splice(at, 1);
  }
  const lingering = new Set([
    ...loopsOf(all.filter((disk) => mayLinger(model, disk))),
    ...dump
      .filter((disk) => mayBeOrphan(play, model, disk))
      .map(({ tag, nodes }) => `${tag} ${nodes['mode'] === 'r' ? 'r' : 'w'}`),
  ]);
  const over = rest.filter(
    ({ loop, isStrayed }) => !isStrayed && (own.has(loop) || !lingering.delete(loop)),
  );
  return over.length === 0
    ? undefined
    : `loop devices are left: ${over.map(({ loop }) => loop).join(', ')}`;
}

/**
 * Devices that backends opened when they were free already: what someone else binds to one stays
 * bound for as long as that backend has it open.
 */
function strayedBackends(play: Play, model: Model): Set<string> {
  const opened = backendDevices(play.site.sysfsDir);
  const astray = [...model.disks.values()].filter(
    ({ holder, state }) => !isForeign(holder) && (state === 'broken' || state === 'unused'),
  );
  const paths = astray.map((disk) => {
    return opened.get(`vbd-${domidOf(play, disk)}-${parseVdev(disk.vdev).number}`);
  });
  return new Set(paths.filter((path) => path !== undefined));
}

/** vbdd has each device that it gave open once, and nothing else of the folder. */
function wrongOpens(
  play: Play,
  model: Model,
  dump: readonly DumpedDisk[],
  sound: readonly DumpedDisk[],
): string | undefined {
  const { site, foreign } = play;
  if (!model.vbdd) return undefined;
  const lingering = [...model.disks.values()].filter((disk) => mayLinger(model, disk));
  const domids = lingering.map(({ holder }) => guestAt(play, holder).domid);
  const left = dump.filter(({ domid }) => domids.includes(domid)).map(deviceOf);
  const given = sound.filter((disk) => isOurs(disk) && !left.includes(deviceOf(disk)));
  const open = openPaths(site.vbdd.pid, site.dir);
  for (const path of left) open.delete(path);
  if (site.vbdd.pid === 'self') {
    // The block backend, the device that is just there, and another script live here, too.
    for (const path of backendDevices(site.sysfsDir).values()) close(open, path);
    close(open, site.device);
    for (const loop of foreign.values()) close(open, loop.path);
  }
  const held = new Set(given.filter(({ tag }) => tag !== undefined).map(deviceOf));
  for (const path of held) {
    const times = open.get(path) ?? 0;
    if (times !== 1) return `vbdd has ${path} open ${times} times`;
  }
  const over = [...open].filter(([path, times]) => times > 0 && !held.has(path));
  return over.length === 0 ? undefined : `vbdd has open: ${over.join(', ')}`;
}

function close(open: Map<string, number>, path: string): void {
  open.set(path, (open.get(path) ?? 0) - 1);
}

function deviceOf({ nodes }: DumpedDisk): string {
  return loopPath(nodes['physical-device'] ?? '');
}

/** Guests read what they should from their disks, and write. */
async function useDisks(play: Play, model: Model): Promise<void> {
  const sound = staying(model).filter(({ state }) => state === 'sound');
  const uses = sound.map(async (disk) => {
    const guestDisk = await guestAt(play, disk.holder).disk(disk.vdev, 2000);
    const tag = readTag(await guestDisk.read(0, 1), play.site.dir);
    assert.equal(tag, disk.tag, `${show(disk)} reads another file`);
    if (disk.mode !== 'r') await guestDisk.write(2, Buffer.alloc(512, disk.holder));
  });
  await Promise.all(uses);
}
