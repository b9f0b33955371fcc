/** How requests go on: from one wait to the next, and what an operation's end lets go on. */
import { constants } from 'node:os';
import { type Desk, errnoOf, park, type Request, type Traffic } from './engine-desk.ts';
import { movesBytes, takeResult } from './engine-operations.ts';
import { readOn } from './engine-read.ts';
import { carryOutHeld, changeAlone, flushOn, writeOn } from './engine-write.ts';

const { EINVAL } = constants.errno;

/** Begins a request. @returns whether it has ended already; else it is pending */
export function start(desk: Desk, request: Request): boolean {
  go(desk, request);
  if (request.traffic !== undefined) return false;
  end(desk, request);
  return true;
}

/** Does what can be done now. */
function go(desk: Desk, request: Request): void {
  try {
    carryOutHeld(desk, request);
    if (request.errno === 0 && request.stage === 'moving') {
      move(desk, request);
      if (!request.parked) request.stage = 'moved';
    }
    const isMoved = request.errno === 0 && !request.parked && request.outstanding === 0;
    if (isMoved && request.flushes) flushOn(desk, request);
  } catch (thrown) {
    request.errno = errnoOf(thrown);
  }
}

function move(desk: Desk, request: Request): void {
  switch (request.kind) {
    case 'flush':
      return;
    case 'close':
      return waitForOthers(desk, request);
    case 'resize':
      return changeAlone(desk, request);
    default:
  }
  if (request.at < 0 || request.at + request.lengthBytes > request.image.sizeBytes) {
    request.errno = EINVAL;
  } else if (request.kind === 'read') readOn(desk, request);
  else if (request.kind === 'write') writeOn(desk, request);
  else changeAlone(desk, request);
}

/** An image is closed when nothing else is pending on it. */
function waitForOthers(desk: Desk, request: Request): void {
  const traffic = desk.traffic.get(request.image);
  const own = request.traffic === undefined ? 0 : 1;
  if (traffic === undefined || traffic.requests === own) return;
  park(desk, request).closing = request;
}

/** Takes a request up again that had waited. */
function resume(desk: Desk, request: Request): void {
  go(desk, request);
  if (request.parked || request.outstanding > 0) return;
  end(desk, request);
  desk.ended.push(request);
}

function end(desk: Desk, request: Request): void {
  const { traffic } = request;
  if (request.kind === 'close') close(desk, request);
  if (traffic === undefined) return;
  traffic.requests -= 1;
  desk.pending -= 1;
  const { closing } = traffic;
  if (closing === undefined || traffic.requests > 1) return;
  traffic.closing = undefined;
  unpark(desk, closing);
}

function close(desk: Desk, request: Request): void {
  try {
    desk.transfer.close(request.image);
  } catch (thrown) {
    request.errno ||= errnoOf(thrown);
  }
}

function unpark(desk: Desk, request: Request): void {
  request.parked = false;
  resume(desk, request);
}

/** Takes in a result of the ring, and takes up whatever has waited for it. */
export function operationEnded(desk: Desk, index: number, result: number): void {
  const operation = desk.operations[index];
  const request = operation?.request;
  if (operation === undefined || request === undefined) {
    throw new Error(`an operation ${index} has ended that was not under way`);
  }
  const { kind } = operation;
  const hadRoom = operation.room >= 0;
  const moves = movesBytes(operation);
  if (!takeResult(desk, operation, result)) return;
  request.outstanding -= 1;
  const { traffic } = request;
  if (traffic !== undefined && moves) traffic.moving -= 1;
  if (kind === 'page') request.parked = false;
  if (!request.parked && (kind === 'page' || request.outstanding === 0)) resume(desk, request);
  if (hadRoom) feedStarved(desk);
  if (traffic !== undefined && traffic.moving === 0) passTurn(desk, traffic);
}

/** Gives room to those who wait for it, first come first served. */
function feedStarved(desk: Desk): void {
  const { starved } = desk;
  for (let waiting = starved.length; waiting > 0; waiting = starved.length) {
    const next = starved.shift();
    if (next !== undefined) unpark(desk, next);
    if (starved.length === waiting) return;
  }
}

/** Lets who waited to be alone run, then those who came after. */
function passTurn(desk: Desk, traffic: Traffic): void {
  const { holder, queue } = traffic;
  if (holder === undefined) return;
  traffic.holder = undefined;
  desk.holders -= 1;
  unpark(desk, holder);
  while (traffic.holder === undefined) {
    const next = queue.shift();
    if (next === undefined) return;
    unpark(desk, next);
  }
}
