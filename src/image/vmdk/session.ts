/**
 * What a VMDK has to be told before a session's first write, and when it is closed: its new content
 * id, and that a file of grains is, or is no longer, open for writing.
 */
import { Failure } from '../../base/failure.ts';
import type { FileTable } from '../file-table.ts';
import { addBarrier, addPut, addResize, type Steps } from '../steps.ts';
import { LONG_CID, NO_CID, type Descriptor, type Span } from './descriptor.ts';
import { putU32, type Grains, type Part } from './part.ts';

export interface Session {
  /** Undefined where there is none: a COWD file opened by itself. */
  descriptor: Descriptor | undefined;
  readonly descriptorFile: number;
  /** Byte of that file where the text begins. */
  readonly descriptorAt: number;
  /** Where the room for it ends. */
  readonly descriptorEndAt: number;
  /** As it is now. */
  cid: number;
  begun: boolean;
  /** The content id stays as it is when the disk is written. */
  keepsIdentity: boolean;
}

/**
 * Before the first write of a session: a new content id, on stable storage before any byte of the
 * disk changes, so that a child of what the disk was will notice.
 */
export function planFirstWrite(session: Session, out: Steps): void {
  if (session.begun || session.keepsIdentity) return;
  session.begun = true;
  const { descriptor, descriptorFile } = session;
  if (descriptor === undefined) return;
  const { length } = descriptor.cidAt;
  session.cid = newCid(session.cid, length);
  const digits = session.cid.toString(16).padStart(length, '0');
  putText(session, descriptor.cidAt, digits, out);
  const long = descriptor.longCidAt;
  if (long !== undefined && long.length > 8) {
    const random = randomDigits(long.length);
    putText(session, long, random.slice(0, long.length - 8) + digits.padStart(8, '0'), out);
  }
  addBarrier(out, descriptorFile);
}

/** Another content id of as many digits, so that no other byte of the descriptor has to move. */
export function newCid(old: number, digits = 8): number {
  for (;;) {
    const cid = parseInt(randomDigits(Math.min(digits, 8)), 16);
    if (cid !== old && cid !== NO_CID && cid !== LONG_CID) return cid;
  }
}

function randomDigits(count: number): string {
  const bytes = crypto.getRandomValues(Buffer.alloc(Math.ceil(count / 2)));
  return bytes.toString('hex').slice(0, count);
}

function putText(session: Session, span: Span, text: string, out: Steps): void {
  const from = addPut(out, session.descriptorFile, session.descriptorAt + span.at, text.length);
  Buffer.from(out.scratch.buffer, out.scratch.byteOffset).write(text, from, 'latin1');
  const { descriptor } = session;
  if (descriptor === undefined) return;
  const { at, length } = span;
  const whole = descriptor.text.slice(0, at) + text + descriptor.text.slice(at + length);
  session.descriptor = { ...descriptor, text: whole };
}

/**
 * Before a session's first allocation in a file: it says that it is not closed, and what an earlier
 * session left open is put right.
 */
export function planFirstAllocation(grains: Grains, out: Steps): void {
  if (grains.begun) return;
  if (grains.damaged) {
    throw new Failure('corrupt', 'the VMDK is damaged — look at it with vbd check');
  }
  grains.begun = true;
  if (grains.endIsOpen) {
    addResize(out, grains.file, grains.nextAt);
    grains.endAt = grains.nextAt;
    grains.endIsOpen = false;
    for (const { at, view } of grains.mend) {
      const from = addPut(out, grains.file, at, view.length);
      out.scratch.set(view, from);
    }
    grains.mend = [];
  }
  planUnclean(grains, 1, out);
  addBarrier(out, grains.file);
}

function planUnclean(grains: Grains, value: number, out: Steps): void {
  const from = addPut(out, grains.file, grains.uncleanAt, 1);
  out.scratch[from] = value;
}

/** After a plan that failed: nothing is known but what is in the file, as after a session that was killed. */
export function reopenEnd(files: FileTable, { grains, access }: Part): void {
  if (grains === undefined || access !== 'RW') return;
  grains.begun = false;
  grains.endIsOpen = true;
  grains.endAt = files.get(grains.file).sizeBytes();
}

/** When a session ends in order: what was grown ahead is cut off, and then the file says it is closed. */
export function planEnd(parts: readonly Part[], out: Steps): void {
  for (const part of parts) {
    const { grains } = part;
    if (grains === undefined || part.access !== 'RW') continue;
    // A file that another session did not close in order is closed now, whether it was written or not.
    if (grains.endIsOpen && !grains.damaged) planFirstAllocation(grains, out);
    if (!grains.begun) continue;
    grains.begun = false;
    if (grains.endAt > grains.nextAt) addResize(out, grains.file, grains.nextAt);
    grains.endAt = grains.nextAt;
    if (grains.nextFreeAt >= 0) {
      const from = addPut(out, grains.file, grains.nextFreeAt, 4);
      putU32(out.scratch, from, grains.nextAt / 512);
    }
    planClosed(grains, out);
  }
}

/** The file says that it is closed, once all that was done to it is on stable storage. */
export function planClosed(grains: Grains, out: Steps): void {
  grains.endIsOpen = false;
  grains.damaged = false;
  addBarrier(out, grains.file);
  planUnclean(grains, 0, out);
}
