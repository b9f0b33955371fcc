/** What of a step can be done: each thing is aimed at a guest or a disk that there is, and none is in another's way. */
import {
  clashes,
  foreignDisk,
  keyOf,
  type Model,
  type Op,
  type Slot,
  slots,
  vdevs,
} from './history-model.ts';

/** Who and what the things chosen so far are about. */
interface Chosen {
  /** Guests that come or go. */
  readonly ending: Set<Slot>;
  /** Guests and disks that a toolstack is busy with. */
  readonly touched: Set<string>;
}

type OpOf<Name extends Op['op']> = Op & { readonly op: Name };

/** The things that can be done side by side now, aimed. */
export function aimed(model: Model, ops: readonly Op[]): Op[] {
  const chosen: Chosen = { ending: new Set(), touched: new Set() };
  return ops.flatMap((op) => aim(model, chosen, op) ?? []);
}

function aim(model: Model, chosen: Chosen, op: Op): Op | undefined {
  switch (op.op) {
    case 'create':
      return aimCreate(model, chosen, op);
    case 'attach':
    case 'detach':
      return aimDisk(model, chosen, op);
    case 'end':
      return aimEnd(model, chosen, op);
    case 'foreign': {
      // Foreign hands ask nobody: only what clashes with nothing is left to them.
      const disk = foreignDisk(model, op);
      const held = [...model.disks.values()];
      return held.some((other) => other.holder === op.kind || clashes(model, disk, other))
        ? undefined
        : op;
    }
    case 'unforeign':
      return model.disks.has(keyOf(op.kind, 'xvda')) ? op : undefined;
    case 'replace':
      return op;
  }
}

/** The first from `start` on, round and round, that will do. */
function firstFrom<T>(all: readonly T[], start: T, will: (each: T) => boolean): T | undefined {
  const at = all.indexOf(start);
  return [...all.slice(at), ...all.slice(0, at)].find(will);
}

function isLiving(model: Model, { ending }: Chosen, slot: Slot): boolean {
  return model.guests.get(slot)?.alive === true && !ending.has(slot);
}

function aimCreate(model: Model, chosen: Chosen, op: OpOf<'create'>): Op | undefined {
  const slot = firstFrom(
    slots,
    op.slot,
    (each) => !model.guests.has(each) && !chosen.touched.has(each),
  );
  if (slot === undefined) return undefined;
  const beside = op.beside && {
    ...op.beside,
    slot: firstFrom(slots, op.beside.slot, (each) => isLiving(model, chosen, each)),
  };
  chosen.ending.add(slot);
  chosen.touched.add(slot);
  if (beside?.slot === undefined) return { ...op, slot, beside: undefined };
  chosen.touched.add(beside.slot);
  return { ...op, slot, beside: { as: beside.as, slot: beside.slot } };
}

function aimDisk(
  model: Model,
  chosen: Chosen,
  op: OpOf<'attach'> | OpOf<'detach'>,
): Op | undefined {
  const slot = firstFrom(slots, op.slot, (each) => isLiving(model, chosen, each));
  if (slot === undefined) return undefined;
  const there = (vdev: string): boolean => model.disks.get(keyOf(slot, vdev))?.leaving === false;
  const vdev = op.op === 'attach' ? op.wish.vdev : firstFrom(vdevs, op.vdev, (each) => there(each));
  if (vdev === undefined || chosen.touched.has(keyOf(slot, vdev))) return undefined;
  if (model.disks.get(keyOf(slot, vdev))?.leaving === true) return undefined;
  chosen.touched.add(keyOf(slot, vdev));
  chosen.touched.add(slot);
  return op.op === 'attach' ? { ...op, slot } : { ...op, slot, vdev };
}

function aimEnd(model: Model, { ending, touched }: Chosen, op: OpOf<'end'>): Op | undefined {
  const will = (each: Slot): boolean => {
    const guest = model.guests.get(each);
    if (guest === undefined || ending.has(each)) return false;
    // A toolstack does one thing at a time to a guest; a crash may come at any time.
    if (touched.has(each) && op.how !== 'crash') return false;
    // A stub domain never outlives the guest that it is for.
    if ([...model.guests.values()].some(({ stubOf }) => stubOf === guest)) return false;
    return guest.alive || op.how === 'destroy';
  };
  const slot = firstFrom(slots, op.slot, will);
  if (slot === undefined) return undefined;
  ending.add(slot);
  return { ...op, slot };
}
