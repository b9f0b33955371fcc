/**
 * A frontend's side of a disk as values: what a guest wrote, none of it to be trusted (Xen's public
 * io/blkif.h, «Frontend XenBus Nodes»).
 */
import { Failure } from '../base/failure.ts';
import { MOST_QUEUES, MOST_RING_ORDER, MOST_RING_PAGES } from '../ring/blkif.ts';

const references = Array.from({ length: MOST_RING_PAGES }, (_, i) => `ring-ref${i}`);

/** Of each ring. */
const ringNames: readonly string[] = ['event-channel', 'ring-ref', ...references];

/** The nodes that are read of each frontend; all in one round trip. */
export const frontendNames: readonly string[] = [
  'state',
  'device-type',
  'protocol',
  'ring-page-order',
  'multi-queue-num-queues',
  ...ringNames,
];

/** The nodes that are to be read, too, of a frontend that has several queues. */
export function queueNames(values: Values): readonly string[] {
  const queues = queuesOf(values);
  if (queues === undefined || queues === 1) return [];
  return Array.from({ length: queues }, (_, queue) =>
    ringNames.map((name) => `queue-${queue}/${name}`),
  ).flat();
}

type Values = Readonly<Record<string, string | undefined>>;

/** One ring of a guest's, and the event channel for it. */
export interface OfferedQueue {
  readonly references: readonly number[];
  readonly port: number;
}

/** What a backend needs to serve the guest's rings. */
export interface OfferedRing {
  readonly queues: readonly OfferedQueue[];
  /** The layout of the rings; undefined when the guest says none. */
  readonly protocol: string | undefined;
}

export interface FrontendNodes {
  /** 0 when there is no frontend (any more). */
  readonly state: number;
  /** It was attached as a CD-ROM. */
  readonly cdrom: boolean;
  /** What it offers in state 3 and 4; a failure when that makes no sense. */
  readonly ring: OfferedRing | Failure;
}

/** @param values by the names of `frontendNames` and `queueNames` */
export function parseFrontendNodes(values: Values): FrontendNodes {
  return {
    state: Number(values['state'] ?? 0),
    cdrom: values['device-type'] === 'cdrom',
    ring: parseRing(values),
  };
}

/** Undefined when it is not one to as many as were offered. */
function queuesOf(values: Values): number | undefined {
  const queues = Number(values['multi-queue-num-queues'] ?? 1);
  return Number.isInteger(queues) && queues >= 1 && queues <= MOST_QUEUES ? queues : undefined;
}

function parseRing(values: Values): OfferedRing | Failure {
  const count = queuesOf(values);
  if (count === undefined) {
    const asked = values['multi-queue-num-queues'];
    return wrong(`it asks for ${asked} queues, and ${MOST_QUEUES} were offered at most`);
  }
  const queues: OfferedQueue[] = [];
  for (let queue = 0; queue < count; queue++) {
    const found = parseQueue(values, count === 1 ? '' : `queue-${queue}/`);
    if (found instanceof Failure) return found;
    queues.push(found);
  }
  return { queues, protocol: values['protocol'] };
}

function parseQueue(values: Values, at: string): OfferedQueue | Failure {
  const port = numberOf(values[`${at}event-channel`]);
  if (port === undefined) return wrong(`its ${at}event-channel is no port`);
  const order = values['ring-page-order'];
  const pages = order === undefined ? undefined : 2 ** Number(order);
  if (pages !== undefined && !(pages >= 1 && pages <= references.length)) {
    return wrong(`its ring-page-order is ${order}, and ${MOST_RING_ORDER} was offered at most`);
  }
  // One page has a name of its own, with an order of 0 or without any.
  const single = pages === undefined || (pages === 1 && values[`${at}ring-ref`] !== undefined);
  const names = single ? ['ring-ref'] : references.slice(0, pages);
  const found = names.map((name) => numberOf(values[at + name]));
  const missing = names.find((_, i) => found[i] === undefined);
  if (missing !== undefined) return wrong(`its ${at}${missing} is no grant reference`);
  return { references: found.filter((each) => each !== undefined), port };
}

function numberOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const number = Number(text);
  return number <= 0xffff_ffff ? number : undefined;
}

function wrong(what: string): Failure {
  return new Failure('invalid', `the guest's frontend cannot be served: ${what}`);
}
