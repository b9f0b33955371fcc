/**
 * A frontend's side of a disk as values: what a guest wrote, none of it to be trusted (Xen's public
 * io/blkif.h, «Frontend XenBus Nodes»).
 */
import { Failure } from '../base/failure.ts';
import { MOST_RING_ORDER, MOST_RING_PAGES } from '../ring/blkif.ts';

const references = Array.from({ length: MOST_RING_PAGES }, (_, i) => `ring-ref${i}`);

/** The nodes that are read of each frontend; all in one round trip. */
export const frontendNames: readonly string[] = [
  'state',
  'event-channel',
  'protocol',
  'ring-page-order',
  'multi-queue-num-queues',
  'ring-ref',
  ...references,
];

/** What a backend needs to serve the guest's ring. */
export interface OfferedRing {
  readonly references: readonly number[];
  readonly port: number;
  /** The ring's layout; undefined when the guest says none. */
  readonly protocol: string | undefined;
}

export interface FrontendNodes {
  /** 0 when there is no frontend (any more). */
  readonly state: number;
  /** What it offers in state 3 and 4; a failure when that makes no sense. */
  readonly ring: OfferedRing | Failure;
}

/** @param values by the names of `frontendNames` */
export function parseFrontendNodes(
  values: Readonly<Record<string, string | undefined>>,
): FrontendNodes {
  return { state: Number(values['state'] ?? 0), ring: parseRing(values) };
}

function parseRing(values: Readonly<Record<string, string | undefined>>): OfferedRing | Failure {
  const queues = Number(values['multi-queue-num-queues'] ?? 1);
  if (queues !== 1) return wrong(`it asks for ${queues} queues, and one was offered`);
  const port = numberOf(values['event-channel']);
  if (port === undefined) return wrong('its event-channel is no port');
  const order = values['ring-page-order'];
  const pages = order === undefined ? undefined : 2 ** Number(order);
  if (pages !== undefined && !(pages >= 1 && pages <= references.length)) {
    return wrong(`its ring-page-order is ${order}, and ${MOST_RING_ORDER} was offered at most`);
  }
  // One page has a name of its own, with an order of 0 or without any.
  const single = pages === undefined || (pages === 1 && values['ring-ref'] !== undefined);
  const names = single ? ['ring-ref'] : references.slice(0, pages);
  const found = names.map((name) => numberOf(values[name]));
  const missing = names.find((_, i) => found[i] === undefined);
  if (missing !== undefined) return wrong(`its ${missing} is no grant reference`);
  return {
    references: found.filter((each) => each !== undefined),
    port,
    protocol: values['protocol'],
  };
}

function numberOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const number = Number(text);
  return number <= 0xffff_ffff ? number : undefined;
}

function wrong(what: string): Failure {
  return new Failure('invalid', `the guest's frontend cannot be served: ${what}`);
}
