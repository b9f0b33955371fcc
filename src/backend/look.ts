/** Looks at what a disk wants to hold: opens it, and asks who holds it already and whether they may share. */
import { Failure } from '../base/failure.ts';
import { type BackendNodes, XenbusState } from '../disk/backend-nodes.ts';
import { imageOf, type ImagePlace, isVbdScript, vbdScript } from '../disk/spec.ts';
import type { TargetFacts } from '../disk/plan.ts';
import type { Member } from '../disk/identity.ts';
import { type Holder, judge } from '../disk/sharing.ts';
import type { DiskRecord, DiskWorld } from './disk-record.ts';
import { mappingHolders } from './host-uses.ts';
import { type OpenTarget, openTarget } from './target.ts';
import type { VmBook } from './vm-book.ts';

export interface Look {
  /** The open target, to be closed by whoever looked; undefined when it could not be opened. */
  readonly opened: OpenTarget | undefined;
  readonly target: TargetFacts | Failure;
  readonly conflict: Failure | undefined;
  /** Rivals that are not in the book yet: learn them and look again. */
  readonly unknownDomids: readonly number[];
  /** When the target's opening began, of performance.now(); NaN when it was not opened. */
  readonly beganMs: number;
}

/** True when the next plan may want to hold the target. */
export function wantsTarget(record: DiskRecord): boolean {
  const { nodes } = record;
  return (
    nodes !== undefined &&
    record.ours &&
    record.held === undefined &&
    record.refusal === undefined &&
    nodes.online &&
    (nodes.physicalDevice === undefined || record.unadoptable !== undefined) &&
    (nodes.state === XenbusState.initialising || nodes.state === XenbusState.initWait)
  );
}

/** One look, all of it synchronous, so that what it finds still holds when the plan acts on it. */
export function lookAtTarget(
  world: DiskWorld,
  record: DiskRecord,
  vms: VmBook,
  imageOfNodes: (nodes: BackendNodes) => ImagePlace = (nodes) => servedImage(world, nodes),
): Look {
  const { nodes } = record;
  if (nodes === undefined) throw new Error(`${record.path} has no nodes to look at`);
  let opened: OpenTarget | undefined;
  try {
    const { path, format } = imageOfNodes(nodes);
    const beganMs = performance.now();
    opened = openTarget(path, nodes.mode);
    world.refreshHostUses();
    const { member } = opened;
    const kind = opened.facts.kind === 'block' ? 'block' : 'file';
    const mappings = kind === 'block' ? mappingHolders(opened.facts.represents, member) : [];
    const rivals = [...mappings, ...world.holdings.rivals(member)];
    const { conflict, unknownDomids } = judgeKnown(record.key.domid, member, rivals, vms);
    // Of a file nobody asks.
    const hostShares =
      kind === 'block' && (mappings.length > 0 || world.holdings.hostUsers(member).length > 0);
    const target = { path: member.path, kind, format, member, hostShares } as const;
    return { opened, target, conflict, unknownDomids, beganMs };
  } catch (thrown) {
    opened?.[Symbol.dispose]();
    if (!(thrown instanceof Failure)) throw thrown;
    return { ...nothingToJudge, opened: undefined, target: thrown, beganMs: NaN };
  }
}

/** Of a thousand rivals one refusal is enough: they are learnt a few at a time. */
const LEARNT_AT_ONCE = 8;

const nothingToJudge = { conflict: undefined, unknownDomids: [] } as const;

/** Judges beside the rivals that are in the book; asks for more of them only if those allow it. */
function judgeKnown(
  domid: number,
  member: Member,
  rivals: readonly Holder[],
  vms: VmBook,
): Pick<Look, 'conflict' | 'unknownDomids'> {
  if (rivals.length === 0) return nothingToJudge;
  const isKnown = ({ who }: Holder): boolean =>
    who.type !== 'guest' || vms.of(who.domid) !== undefined;
  const vm = vms.of(domid);
  const guests = rivals.flatMap(({ who }) => (who.type === 'guest' ? [who.domid] : []));
  if (vm === undefined && guests.length > 0) {
    return { conflict: undefined, unknownDomids: [domid, ...guests.slice(0, LEARNT_AT_ONCE)] };
  }
  const asked = { members: [member], vm };
  const conflict = judge(
    asked,
    rivals.filter(isKnown),
    (other) => vms.of(other) ?? { domid: other },
  );
  if (conflict !== undefined) return { conflict, unknownDomids: [] };
  const unknown = new Set(guests.filter((guest) => vms.of(guest) === undefined));
  return { conflict: undefined, unknownDomids: [...unknown].slice(0, LEARNT_AT_ONCE) };
}

/** Xen's block-tap, whose place vbdkit takes as well, says `aio` for raw files. */
function namesInOurWords({ params, script }: Pick<BackendNodes, 'params' | 'script'>): {
  target: string;
  script: string | undefined;
} {
  if (script?.split('/').at(-1) !== 'block-tap') return { target: params, script };
  return { target: params.replace(/^aio:/, 'raw:'), script: vbdScript };
}

/**
 * The image that the nodes of a disk of kind vbd name: under a script of others a raw file or device,
 * and with `block-vbd` of whatever format the target says.
 * @throws Failure invalid | unsupported
 */
export function imageOfVbd(nodes: Pick<BackendNodes, 'params' | 'script'>): ImagePlace {
  const { target, script } = namesInOurWords(nodes);
  const raw = { path: nodes.params, format: 'raw' } as const;
  return isVbdScript(script) ? (imageOf({ format: 'raw', target, script }) ?? raw) : raw;
}

function servedImage({ tap, nbd }: DiskWorld, nodes: BackendNodes): ImagePlace {
  const image = imageOfVbd(nodes);
  const { path, format } = image;
  if (format === 'raw' || (tap !== undefined && nbd !== undefined)) return image;
  const advice = 'name the socket of vbd-tap as tap in /etc/xen/vbdkit.conf, or convert it to raw';
  const sentence = `${path} is ${format}, which blkback cannot read by itself — ${advice}`;
  throw new Failure('unsupported', sentence, { path, format });
}
