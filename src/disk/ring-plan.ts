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
  readonly guest: 'alive' | 'gone';
  /** What the tap has of it: nothing, its image, or its ring too. */
  readonly tap: 'nothing' | 'open' | 'connected';
  /** Why the last try failed; it stands until the disk or its nodes change. */
  readonly refusal: Failure | undefined;
}

export type RingStep =
  | { readonly do: 'open' }
  | { readonly do: 'offer' }
  | { readonly do: 'connect'; readonly ring: OfferedRing; readonly takeUp: boolean }
  | { readonly do: 'announce' }
  | { readonly do: 'disconnect' }
  | { readonly do: 'close' }
  | { readonly do: 'move'; readonly state: number }
  | { readonly do: 'refuse'; readonly failure: Failure };

export interface RingPlan {
  readonly because: string;
  readonly step: RingStep | undefined;
}

const { initialising, initWait, initialised, connected, closing, closed } = XenbusState;

/** What to do next for one disk. Total: every combination has an answer. */
export function planRing(facts: RingFacts): RingPlan {
  const { nodes, tap, frontend } = facts;
  if (nodes === undefined) {
    return letGo(facts, 'the store has no such disk', undefined);
  }
  if (facts.guest === 'gone') return letGo(facts, 'its guest is gone', nodes);
  const leaving = [0, closing, closed].some((state) => state === frontend.state);
  if (!nodes.online && (leaving || tap !== 'connected')) {
    return letGo(facts, 'the toolstack wants it gone', nodes);
  }
  if (!nodes.online) return { because: 'the guest is asked to let go of it', step: undefined };
  if (facts.refusal !== undefined) return planRefused(facts, facts.refusal, nodes);
  if (tap === 'nothing') {
    // libxl leaves the nodes of a failed hot attach: nobody expects that disk any more.
    const because = 'its attach has failed; detach it, then attach it again';
    if (wasRefused(nodes)) return { because, step: undefined };
    return { because: 'its image is not open', step: { do: 'open' } };
  }
  return planOpen(facts, nodes);
}

/** Nothing of it is served any more; the backend's state says so last. */
function letGo(facts: RingFacts, because: string, nodes: BackendNodes | undefined): RingPlan {
  if (facts.tap === 'connected') return { because, step: { do: 'disconnect' } };
  if (facts.tap === 'open') return { because, step: { do: 'close' } };
  if (nodes === undefined || nodes.state === closed) return { because, step: undefined };
  return { because, step: { do: 'move', state: closed } };
}

function planRefused(facts: RingFacts, failure: Failure, nodes: BackendNodes): RingPlan {
  const because = `wanted: absent, because ${failure.message}`;
  if (facts.tap === 'connected') return { because, step: { do: 'disconnect' } };
  if (facts.tap === 'open') return { because, step: { do: 'close' } };
  return { because, step: wasRefused(nodes) ? undefined : { do: 'refuse', failure } };
}

function planOpen(facts: RingFacts, nodes: BackendNodes): RingPlan {
  const { frontend, tap } = facts;
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

function planConnect({ frontend, tap }: RingFacts, nodes: BackendNodes): RingPlan {
  if (frontend.ring instanceof Failure) {
    return { because: frontend.ring.message, step: { do: 'refuse', failure: frontend.ring } };
  }
  if (tap === 'open') {
    // A backend that was connected already has answered some of what is in the ring.
    const takeUp = nodes.state === connected;
    const because = takeUp ? 'its tap was another' : 'the guest offers its ring';
    return { because, step: { do: 'connect', ring: frontend.ring, takeUp } };
  }
  if (nodes.state === connected) return { because: 'it is connected', step: undefined };
  const waits = nodes.state === initWait || nodes.state === initialising;
  if (!waits) return { because: `its backend is in state ${nodes.state}`, step: undefined };
  return { because: 'its ring is served', step: { do: 'announce' } };
}

function moveTo(nodes: BackendNodes, state: number, because: string): RingPlan {
  return { because, step: nodes.state === state ? undefined : { do: 'move', state } };
}
