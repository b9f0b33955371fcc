/** Carries out on a real site what a history's model says. */
import { dirname } from 'node:path';
import { attachDisk } from '../../src/backend/toolstack.ts';
import { Failure } from '../../src/base/failure.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { parseVdev } from '../../src/disk/vdev.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { type TestLoop, testLoop } from '../host/test-host.ts';
import {
  type Disk,
  foreignDomids,
  type ForeignKind,
  type Model,
  type Op,
  type Outcome,
  type Slot,
  type Wish,
} from './history-model.ts';
import type { Site } from './history-site.ts';

/** A history as it happens. */
export interface Play {
  readonly site: Site;
  readonly guests: Map<Slot, Guest>;
  readonly foreign: Map<ForeignKind, { readonly path: string } & Disposable>;
}

/** How long a toolstack waits; less for whom nobody will answer. */
const PATIENCE_MS = { usual: 10_000, 'no vbdd': 40, 'no guest': 200 } as const;
const XVDA = 51712;

function specOf({ site }: Play, { vdev, path, mode }: Wish): string {
  return `vdev=${vdev},access=${mode === 'r' ? 'ro' : 'rw'},script=block-vbd,target=${site.pathOf(path)}`;
}

/**
 * Does one thing; a Failure is an outcome, anything else thrown is a bug.
 * @param name of the guest or the file that comes by it
 * @param doomed the guest dies meanwhile
 */
export async function perform(
  play: Play,
  model: Model,
  op: Op,
  name = '',
  doomed = false,
): Promise<Outcome> {
  try {
    await act(play, model, op, name, doomed);
    return 'ok';
  } catch (thrown) {
    if (thrown instanceof Failure) return thrown;
    throw thrown;
  }
}

async function act(play: Play, model: Model, op: Op, name: string, doomed: boolean): Promise<void> {
  const { site, guests } = play;
  const backendTimeoutMs = PATIENCE_MS[doomed ? 'no guest' : 'usual'];
  const hotplugTimeoutMs = model.vbdd ? backendTimeoutMs : PATIENCE_MS['no vbdd'];
  const patience = { backendTimeoutMs, hotplugTimeoutMs };
  switch (op.op) {
    case 'create': {
      const beside = op.beside === undefined ? undefined : guests.get(op.beside.slot);
      const disks = op.disks.map((wish) => specOf(play, wish));
      const guest = await site.host.createGuest({
        name,
        disks,
        attach: patience,
        ...(op.beside?.as === 'half' ? { uuid: beside?.uuid } : {}),
        ...(op.beside?.as === 'stub' ? { target: beside?.domid } : {}),
      });
      return void guests.set(op.slot, guest);
    }
    case 'attach': {
      const { domid } = guestAt(play, op.slot);
      const spec = { ...parseSpec([specOf(play, op.wish)]), access: op.wish.mode };
      const place = {
        domid,
        devid: parseVdev(op.wish.vdev).number,
        backendDomid: 0,
        kind: 'vbd',
        scriptDir: '/etc/xen/scripts',
      } as const;
      return attachDisk(site.host.store, spec, place, patience);
    }
    case 'detach':
      return guestAt(play, op.slot).detach(op.vdev, {
        force: op.force,
        timeoutMs: backendTimeoutMs,
      });
    case 'end':
      return end(guestAt(play, op.slot), op.how);
    case 'foreign':
      return takeForeign(play, op.kind, op.mode);
    case 'unforeign':
      return letGoForeign(play, op.kind);
    case 'replace':
      return site.replace(name);
  }
}

/** The guest that is at the slot now. */
export function guestAt({ guests }: Play, slot: Disk['holder']): Guest {
  const guest = guests.get(slot as Slot);
  if (guest === undefined) throw new Error(`there is no guest at ${slot}`);
  return guest;
}

async function end(guest: Guest, how: (Op & { op: 'end' })['how']): Promise<void> {
  if (how === 'shutdown') return guest.shutdown();
  if (how === 'power off') return guest.powerOff();
  if (how === 'crash') return guest.crash();
  return guest.destroy();
}

async function takeForeign({ site, foreign }: Play, kind: ForeignKind, mode: string) {
  let loop: TestLoop | undefined;
  if (kind === 'block-iscsi') loop = testLoop(site.pathOf('a.hard'), mode === 'r');
  foreign.set(kind, loop ?? { path: 'none', [Symbol.dispose]() {} });
  const path = foreignPath(kind);
  await site.host.store.transaction((tx) => {
    const nodes =
      loop === undefined
        ? { params: `aio:${site.pathOf('b.img')}` }
        : {
            params: 'iqn.2001-05.example',
            script: '/etc/xen/scripts/block-iscsi',
            'physical-device': loop.physicalDevice,
          };
    for (const [name, value] of Object.entries({ ...nodes, mode, online: '1', state: '4' })) {
      void tx.write(`${path}/${name}`, value);
    }
  });
}

async function letGoForeign({ site, foreign }: Play, kind: ForeignKind): Promise<void> {
  await site.host.store.remove(dirname(foreignPath(kind)));
  foreign.get(kind)?.[Symbol.dispose]();
  foreign.delete(kind);
}

function foreignPath(kind: ForeignKind): string {
  const folder = kind === 'qdisk' ? 'qdisk' : 'vbd';
  return `/local/domain/0/backend/${folder}/${foreignDomids[kind]}/${XVDA}`;
}
