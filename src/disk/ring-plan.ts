/**
 * Reconcile, the pure half, for disks whose backend is vbdkit itself: what the store and the guest
 * say, what the tap has, and the next step that brings them together. The states are those of
 * xen/io/xenbus.h, in the order that libxl and Linux' blkfront expect.
 */
import { Failure } from '../base/failure.ts';
import { type BackendNodes, wasRefused, XenbusState } from './backend-nodes.ts';
import type { FrontendNodes, OfferedRing } from './frontend-nodes.ts';

export interface RingFacts {
  /** Undefined: the store has no such disk (any more). */
  readonly nodes: BackendNodes | undefined;
  readonly frontend: FrontendNodes;
  /** The guest offers another ring than the one that was connected last. */
  readonly newRing: boolean;
  /** The nodes name another medium of a drive than the one that the tap was told to open. */
  readonly newMedium: boolean;
  /** Unknown: the store knows no such guest, and did not say that it died. */
  readonly guest: 'alive' | 'gone' | 'unknown';
  /** Whether the kernel's own backend has the disk: it may not, where the tap is to serve it. */
  readonly kernel: 'yes' | 'no' | 'not yet';
  /** What the tap has of it: nothing, its image, or its ring too. */
  readonly tap: 'nothing' | 'open' | 'connected';
  /** The guest's writes wait for room. */
  readonly paused: boolean;
  /** Why the last try failed; it stands until the disk or its nodes change. */
  readonly refusal: Failure | undefined;
  /** `online` 0 or a closing state was seen at some time. */
  readonly closingSeen: boolean;
  /** This is not the toolstack's domain: nobody else cleans up here. */
  readonly driverDomain: boolean;
  /** The guest is gone and its toolstack had its time to clean up after it. */
  readonly graceOver: boolean;
}

export type RingStep =
  | { readonly do: 'open' }
  | { readonly do: 'unbind' }
  | { readonly do: 'offer' }
  | { readonly do: 'change' }
  | { readonly do: 'connect'; readonly ring: OfferedRing; readonly takeUp: boolean }
  | { readonly do: 'announce' }
  | { readonly do: 'disconnect' }
  | { readonly do: 'close' }
  | { readonly do: 'stop waiting' }
  | { readonly do: 'move'; readonly state: number }
  | { readonly do: 'refuse'; readonly failure: Failure }
  | { readonly do: 'report'; readonly sentence: string }
  | { readonly do: 'remove nodes' };

export interface RingPlan {
  readonly because: string;
  readonly step: RingStep | undefined;
}

const { initialising, initWait, initialised, connected, closing, closed } = XenbusState;

/** What to do next for one disk. Total: every combination has an answer. */
export function planRing(facts: RingFacts): RingPlan {
  const { nodes, tap, frontend } = facts;
  if (nodes === undefined) return planAbsent(facts);
  if (facts.guest === 'gone') return letGo(facts, 'its guest is gone', nodes);
  const leaving = [0, closing, closed].some((state) => state === frontend.state);
  if (!nodes.online && (leaving || tap !== 'connected')) {
    return letGo(facts, 'the toolstack wants it gone', nodes);
  }
  if (!nodes.online) {
    // A guest whose writes wait cannot let go of the disk.
    const step = facts.paused ? ({ do: 'stop waiting' } as const) : undefined;
    return { because: 'the guest is asked to let go of it', step };
  }
  if (facts.refusal !== undefined) return planRefused(facts, facts.refusal, nodes);
  if (tap === 'nothing') {
    // libxl leaves the nodes of a failed hot attach: nobody expects that disk any more.
    const because = 'its attach has failed; detach it, then attach it again';
    if (wasRefused(nodes)) return { because, step: undefined };
    return { because: 'its image is not open', step: { do: 'open' } };
  }
  return planOpen(facts, nodes);
}

/** A store that has less in it than before is a fault to report while a guest uses the disk. */
function planAbsent(facts: RingFacts): RingPlan {
  const { guest, frontend, tap } = facts;
  const because = 'the store has no such disk';
  // Toolstacks take both ends away; a store that was lost knows no guest either.
  const bothEnds = guest === 'alive' && frontend.state === 0;
  if (tap !== 'connected' || facts.closingSeen || guest === 'gone' || bothEnds) {
    return letGo(facts, because, undefined);
  }
  const sentence =
    'its nodes vanished from the store while it is in use; it is served until its guest is gone — stop the guest to release it';
  return { because: sentence, step: { do: 'report', sentence } };
}

/** Nothing of it is served any more; the backend's state says so last. */
function letGo(facts: RingFacts, because: string, nodes: BackendNodes | undefined): RingPlan {
  if (facts.tap === 'connected') return { because, step: { do: 'disconnect' } };
  if (facts.tap === 'open') return { because, step: { do: 'close' } };
  if (nodes === undefined) return { because, step: undefined };
  if (nodes.state !== closed) {
    // A disk that was refused is still the kernel's to close.
    if (facts.kernel === 'yes') return { because, step: undefined };
    return { because, step: { do: 'move', state: closed } };
  }
  // A toolstack in another domain waits for the backend's own domain to remove the directory; and
  // of a dead guest's it had its time.
  const remove =
    (facts.driverDomain && !nodes.online) || (facts.guest === 'gone' && facts.graceOver);
  return { because, step: remove ? { do: 'remove nodes' } : undefined };
}

function planRefused(facts: RingFacts, failure: Failure, nodes: BackendNodes): RingPlan {
  const because = `wanted: absent, because ${failure.message}`;
  if (facts.tap === 'connected') return { because, step: { do: 'disconnect' } };
  if (facts.tap === 'open') return { because, step: { do: 'close' } };
  return { because, step: wasRefused(nodes) ? undefined : { do: 'refuse', failure } };
}

function planOpen(facts: RingFacts, nodes: BackendNodes): RingPlan {
  const { frontend, tap } = facts;
  if (facts.kernel === 'not yet') {
    return { because: 'the kernel has not looked at it yet', step: undefined };
  }
  if (facts.kernel === 'yes') {
    return { because: 'the kernel would serve it, too', step: { do: 'unbind' } };
  }
  if (nodes.hotplugStatus !== 'connected' && tap === 'open') {
    return { because: 'its image is open', step: { do: 'offer' } };
  }
  if (facts.newMedium) return { because: 'another medium is to be in it', step: { do: 'change' } };
  switch (frontend.state) {
    case initialised:
    case connected:
      return planConnect(facts, nodes);
    case closing:
    case closed:
      if (tap === 'connected') {
        return { because: 'the guest lets go of its ring', step: { do: 'disconnect' } };
      }
      return moveTo(nodes, frontend.state, 'the guest has let go of its ring');
    default:
      if (tap === 'connected') {
        return { because: 'the guest began anew', step: { do: 'disconnect' } };
      }
      if (nodes.state === initWait) {
        return { because: 'the guest has not offered a ring yet', step: undefined };
      }
      return { because: 'its image is open', step: { do: 'offer' } };
  }
}

function planConnect({ frontend, tap, newRing }: RingFacts, nodes: BackendNodes): RingPlan {
  if (frontend.ring instanceof Failure) {
    return { because: frontend.ring.message, step: { do: 'refuse', failure: frontend.ring } };
  }
  if (tap === 'open') {
    // A backend that was connected already has answered some of what is in the ring.
    const takeUp = nodes.state === connected && !newRing;
    const because = takeUp ? 'its tap was another' : 'the guest offers its ring';
    return { because, step: { do: 'connect', ring: frontend.ring, takeUp } };
  }
  // A guest that was resumed begins anew without closing what it had.
  if (newRing) return { because: 'the guest offers another ring', step: { do: 'disconnect' } };
  if (nodes.state === connected) return { because: 'it is connected', step: undefined };
  const waits = nodes.state === initWait || nodes.state === initialising;
  if (!waits) return { because: `its backend is in state ${nodes.state}`, step: undefined };
  return { because: 'its ring is served', step: { do: 'announce' } };
}

function moveTo(nodes: BackendNodes, state: number, because: string): RingPlan {
  return { because, step: nodes.state === state ? undefined : { do: 'move', state } };
}

/** A step as a person reads it, in `vbd why`. */
export function describeRingStep(step: RingStep): string {
  switch (step.do) {
    case 'open':
      return 'have the tap open its image';
    case 'unbind':
      return 'take it from blkback';
    case 'offer':
      return 'offer the guest a ring: state=2';
    case 'change':
      return 'have the tap open what is to be in the drive';
    case 'connect':
      return step.takeUp ? 'have the tap take up its ring' : 'have the tap serve its ring';
    case 'announce':
      return 'write what the disk is: state=4';
    case 'disconnect':
      return 'have the tap end its ring';
    case 'close':
      return 'have the tap close its image';
    case 'stop waiting':
      return 'have the tap let its requests go on, or fail for want of room';
    case 'move':
      return `write state=${step.state}`;
    case 'refuse':
      return `write hotplug-error: ${step.failure.message}`;
    case 'report':
      return `report: ${step.sentence}`;
    case 'remove nodes':
      return 'remove its nodes';
  }
}
