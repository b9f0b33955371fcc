/**
 * Reconcile, the pure half: what the store wants of one disk against what is there, and the steps
 * that close the gap. The same function answers a watch, a start, a sweep, `--dry-run` and `vbd why`.
 */
import { Failure } from '../base/failure.ts';
import type { ImageFormat } from '../image/formats.ts';
import {
  type BackendNodes,
  type DiskKey,
  formatPhysicalDevice,
  wasRefused,
  XenbusState,
} from './backend-nodes.ts';
import type { Member } from './identity.ts';

/** What the disk's target turned out to be once it was opened and looked at. */
export interface TargetFacts {
  readonly path: string;
  readonly kind: 'file' | 'block';
  /** What blkback can read is raw; anything else is served to it on an nbd device. */
  readonly format: ImageFormat;
  readonly member: Member;
  /** Someone in this host uses the device and the rules allow it: it cannot be held exclusively. */
  readonly hostShares: boolean;
}

/** What vbdkit holds for a disk. */
export interface HeldFacts {
  readonly kind: 'loop' | 'device' | 'nbd';
  readonly device: { readonly major: number; readonly minor: number };
  /** `/dev/loop7`, `/dev/nbd0`, or the device's path as the guest's config names it. */
  readonly devicePath: string;
  readonly diskSequence: number | undefined;
  readonly member: Member;
  /** Of an nbd device: whether the tap serves it; `severed`: nobody will any more. */
  readonly link?: 'up' | 'down' | 'severed' | undefined;
}

export interface DiskFacts {
  readonly key: DiskKey;
  /** Undefined: the store has no such disk (any more). */
  readonly nodes: BackendNodes | undefined;
  /** The script is ours; other disks are only watched as holders. */
  readonly ours: boolean;
  /** This is not the toolstack's domain: nobody else cleans up here. */
  readonly driverDomain: boolean;
  /** Asked only where it matters: when something is held or nodes are left behind. */
  readonly guest: 'alive' | 'gone' | 'not asked';
  /** Whether the kernel's backend has a device for this disk; unknown where there is no such bus. */
  readonly backend: 'there' | 'not there' | 'unknown';
  readonly held: HeldFacts | undefined;
  /** The store was told of what is held, by this vbdd or by the one that it took over from. */
  readonly published: boolean;
  /** Why the device that the store gives could not be taken hold of, after a try. */
  readonly unadoptable: Failure | undefined;
  /** `online` 0 or a closing state was seen at some time. */
  readonly closingSeen: boolean;
  /** Why the last try failed; it stands until the disk or its nodes change. */
  readonly refusal: Failure | undefined;
  /** Undefined when there was no reason to look. */
  readonly target: TargetFacts | Failure | undefined;
  /** Why the target may not be shared with those who hold it. */
  readonly conflict: Failure | undefined;
  /** The guest is gone and its toolstack had its time to clean up after it. */
  readonly graceOver: boolean;
  /** vbdkit has taken the dead guest's frontend away and told its backend to close. */
  readonly closeAsked: boolean;
}

export type Step =
  | { readonly do: 'hold'; readonly target: TargetFacts; readonly directIo: boolean }
  | { readonly do: 'adopt'; readonly physicalDevice: string; readonly nodes: BackendNodes }
  | { readonly do: 'reconnect' }
  | { readonly do: 'sever' }
  | { readonly do: 'publish'; readonly values: Readonly<Record<string, string>> }
  | { readonly do: 'refuse'; readonly failure: Failure; readonly status: 'busy' | 'error' }
  | { readonly do: 'release' }
  | { readonly do: 'report'; readonly sentence: string }
  | { readonly do: 'close backend' }
  | { readonly do: 'remove nodes' };

export interface Plan {
  /** The facts that led to it, one sentence each. */
  readonly because: readonly string[];
  readonly steps: readonly Step[];
}

/** What to do for one disk, given all that is known of it. Total: every combination has an answer. */
export function planDisk(facts: DiskFacts): Plan {
  const plan = planNodes(facts);
  const step = plan.steps[0]?.do;
  const rests = step === undefined || step === 'report' || step === 'close backend';
  const foreign = facts.nodes !== undefined && !facts.ours;
  if (!rests || foreign || facts.held?.link !== 'down') return plan;
  // What a dead guest has asked for would keep its backend from closing.
  const gone = facts.guest === 'gone';
  const because = [...plan.because, 'its image is not served'];
  return { because, steps: [{ do: gone ? 'sever' : 'reconnect' }, ...plan.steps] };
}

/** What the disk's nodes and its guest ask for. */
function planNodes(facts: DiskFacts): Plan {
  const { nodes, held } = facts;
  if (nodes === undefined) return planAbsent(facts);
  if (!facts.ours) {
    const script = nodes.script ?? 'no script';
    return { because: [`${script} attaches it, not vbdkit`], steps: [] };
  }
  if (nodes.state === XenbusState.closed && !nodes.online) {
    const { because, steps } = absent(
      facts,
      'the backend has closed and the toolstack wants it gone',
    );
    // A toolstack in another domain waits for the backend's own domain to remove the directory; and
    // of a dead guest's it had its time.
    const remove = facts.driverDomain || (facts.guest === 'gone' && facts.graceOver);
    return { because, steps: remove ? [...steps, { do: 'remove nodes' }] : steps };
  }
  if (facts.guest === 'gone') return planOrphan(facts, nodes);
  if (!nodes.online) return { because: ['it is closing'], steps: [] };
  if (facts.refusal !== undefined) return planRefused(facts, facts.refusal);
  if (held === undefined) return planUnheld(facts, nodes);
  return planHeld(facts, nodes, held);
}

/** The disk's directory is not in the store: the guest is done with it, or the store lost it. */
function planAbsent(facts: DiskFacts): Plan {
  if (facts.held === undefined) return { because: ['the store has no such disk'], steps: [] };
  if (facts.closingSeen) return absent(facts, 'it closed and its nodes were removed');
  if (facts.backend === 'not there') return absent(facts, 'no backend has it open any more');
  if (!facts.published) return absent(facts, 'its nodes vanished before it was attached');
  // A xenstored that started anew knows no guest; the kernel that has the device open knows better.
  if (facts.guest === 'gone' && facts.backend === 'unknown') {
    return absent(facts, 'its guest is gone and so are its nodes');
  }
  const sentence =
    'its nodes vanished from the store while it is in use; it is kept until its guest is gone — stop the guest to release it';
  return { because: [sentence], steps: [{ do: 'report', sentence }] };
}

/** The guest died and left its nodes: its toolstack cleans up, and after a while vbdkit does. */
function planOrphan(facts: DiskFacts, nodes: BackendNodes): Plan {
  const because = ['its guest is gone'];
  if (!facts.graceOver)
    return { because: [...because, 'its toolstack may still clean up'], steps: [] };
  const closed = nodes.state === XenbusState.closed || facts.backend === 'not there';
  if (closed) {
    const release = facts.held === undefined ? [] : [{ do: 'release' } as const];
    return {
      because: [...because, 'the backend has closed'],
      steps: [...release, { do: 'remove nodes' }],
    };
  }
  return { because, steps: facts.closeAsked ? [] : [{ do: 'close backend' }] };
}

function planRefused(facts: DiskFacts, refusal: Failure): Plan {
  const told = facts.nodes !== undefined && wasRefused(facts.nodes);
  const steps: Step[] = facts.held === undefined ? [] : [{ do: 'release' }];
  const status = refusal.kind === 'in-use' ? 'busy' : 'error';
  if (!told) steps.push({ do: 'refuse', failure: refusal, status });
  return { because: [`wanted: absent, because ${refusal.message}`], steps };
}

function planUnheld(facts: DiskFacts, nodes: BackendNodes): Plan {
  const { target, unadoptable } = facts;
  if (nodes.physicalDevice !== undefined && unadoptable === undefined) {
    const because = [`physical-device ${nodes.physicalDevice} was given to it before`];
    return { because, steps: [{ do: 'adopt', physicalDevice: nodes.physicalDevice, nodes }] };
  }
  if (unadoptable !== undefined && !isStale(facts, unadoptable)) {
    const sentence = unadoptable.message;
    return { because: [sentence], steps: [{ do: 'report', sentence }] };
  }
  if (nodes.state !== XenbusState.initialising && nodes.state !== XenbusState.initWait) {
    return {
      because: [`its backend is in state ${nodes.state}, past being given a device`],
      steps: [],
    };
  }
  if (target === undefined)
    return { because: ['those who hold something already are looked at first'], steps: [] };
  if (target instanceof Failure) return planRefused(facts, target);
  if (facts.conflict !== undefined) return planRefused(facts, facts.conflict);
  // libxl leaves the nodes of a failed hot attach: nobody expects that disk any more.
  if (wasRefused(nodes)) {
    return { because: ['its attach has failed; detach it, then attach it again'], steps: [] };
  }
  const because = [
    `it wants ${target.path} for ${nodes.mode === 'r' ? 'reading' : 'writing'}`,
    `that is ${target.kind === 'file' ? 'a file' : 'a block device'}, ${target.member.identity}`,
    'nobody holds it in a way that forbids it',
  ];
  return { because, steps: [{ do: 'hold', target, directIo: nodes.directIoSafe }] };
}

/** The number given was freed before any backend opened it: another device may be given. */
function isStale(facts: DiskFacts, unadoptable: Failure): boolean {
  return unadoptable.kind === 'gone' && facts.backend !== 'there';
}

function planHeld(facts: DiskFacts, nodes: BackendNodes, held: HeldFacts): Plan {
  const physicalDevice = formatPhysicalDevice(held.device);
  const because = [`vbdkit holds ${held.devicePath} for it`];
  if (nodes.physicalDevice === physicalDevice && nodes.hotplugStatus === 'connected') {
    return { because: [...because, 'the store says so'], steps: [] };
  }
  if (facts.published && nodes.physicalDevice === undefined) {
    return { because: ['its nodes were made anew'], steps: [{ do: 'release' }] };
  }
  if (facts.published) {
    const sentence = `the store gives it ${nodes.physicalDevice}, vbdkit holds ${physicalDevice} — someone else wrote physical-device`;
    return { because, steps: [{ do: 'report', sentence }] };
  }
  return { because, steps: [{ do: 'publish', values: publishedNodes(held) }] };
}

function absent(facts: DiskFacts, why: string): Plan {
  return { because: [why], steps: facts.held === undefined ? [] : [{ do: 'release' }] };
}

/** The hotplug step's nodes; `diskseq` as Qubes writes it, so that a later start can tell a reused number. */
function publishedNodes(held: HeldFacts): Record<string, string> {
  return {
    ...(held.diskSequence === undefined ? {} : { diskseq: held.diskSequence.toString(16) }),
    'physical-device': formatPhysicalDevice(held.device),
    'physical-device-path': held.devicePath,
    'hotplug-status': 'connected',
  };
}

/** A step as a person reads it, in `--dry-run` and `vbd why`. */
export function describeStep(step: Step): string {
  switch (step.do) {
    case 'hold':
      if (step.target.format !== 'raw') {
        return `have vbd-tap serve ${step.target.path} on an nbd device`;
      }
      return step.target.kind === 'file'
        ? `bind a loop device to ${step.target.path}, or share the one it has`
        : `hold ${step.target.path} open`;
    case 'adopt':
      return `take hold of device ${step.physicalDevice}, after checking what it is`;
    case 'reconnect':
      return 'have vbd-tap serve its nbd device again';
    case 'sever':
      return 'disconnect its nbd device: what is under way on it fails';
    case 'publish':
      return `write ${Object.entries(step.values)
        .map(([name, value]) => `${name}=${value}`)
        .join(' ')}`;
    case 'refuse':
      return `write hotplug-error: ${step.failure.message}`;
    case 'report':
      return `report: ${step.sentence}`;
    case 'release':
      return 'give back what is held for it';
    case 'close backend':
      return 'have the backend close: remove the frontend, online=0, state=5';
    case 'remove nodes':
      return 'remove its nodes';
  }
}
