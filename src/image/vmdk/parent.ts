/**
 * Another parent for a VMDK, which its descriptor names. A descriptor of one sector changes as one;
 * a power cut may leave a longer one torn.
 */
import { Failure } from '../../base/failure.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { NewParent } from '../image.ts';
import { addBarrier, addPut, type Steps } from '../steps.ts';
import { parseDescriptor } from './descriptor.ts';
import { parentCid } from './descriptor-write.ts';
import type { Session } from './session.ts';

/** As `Image.planParent`. @throws Failure unsupported | invalid */
export function planParent(session: Session, parent: NewParent | undefined, out: Steps): boolean {
  const { descriptor, descriptorFile, descriptorAt, descriptorEndAt } = session;
  if (descriptor === undefined) {
    throw new Failure('unsupported', 'a VMDK without a descriptor has no parent');
  }
  const { text, values } = descriptor;
  const encoding = values.get('encoding') ?? values.get('ddb.encoding') ?? 'utf-8';
  const name = parent?.name ?? '';
  if (/["\r\n\0]/.test(name) || (!/^utf-?8$/i.test(encoding) && !/^[ -~]*$/.test(name))) {
    throw new Failure('invalid', `a VMDK in ${encoding} cannot hold the name ${name}`);
  }
  if (parent !== undefined && parent.image === undefined) {
    throw new Error('a VMDK knows its parent by its content id');
  }
  const { image } = parent ?? {};
  const cid = parentCid(image && { image, name });
  const written = Buffer.from(name, 'utf8').toString('latin1');
  const hint = parent === undefined ? '' : `parentFileNameHint="${written}"`;
  const next = Buffer.from(withParent(text, cid.toString(16).padStart(8, '0'), hint), 'latin1');
  const isAlone = descriptorAt === 0;
  const room = isAlone ? Math.max(next.length, text.length) : descriptorEndAt - descriptorAt;
  if (next.length > room) {
    throw new Failure('invalid', `the descriptor has no room for the name ${name}`);
  }
  // What follows the first sector stays as it is where it may.
  const before = Buffer.alloc(room);
  before.write(text, 'latin1');
  const after = Buffer.alloc(room, isAlone ? '\n' : 0);
  after.set(next);
  const differs = Buffer.compare(before.subarray(SECTOR_BYTES), after.subarray(SECTOR_BYTES)) !== 0;
  const length = differs ? room : Math.min(room, SECTOR_BYTES);
  const from = addPut(out, descriptorFile, descriptorAt, length);
  out.scratch.set(after.subarray(0, length), from);
  addBarrier(out, descriptorFile);
  session.descriptor = parseDescriptor(after);
  return false;
}

/** The text with another content id of the parent, and another line that names it. */
function withParent(text: string, digits: string, hint: string): string {
  const ended = (line: string): string => (line === '' ? '' : `${line}\n`);
  const idLine = /^[ \t]*parentCID[ \t]*=.*$/im;
  const hintLine = /^[ \t]*parentFileNameHint[ \t]*=.*(?:\r?\n)?/im;
  const withId = idLine.test(text)
    ? text.replace(idLine, `parentCID=${digits}`)
    : text.replace(/^[ \t]*CID[ \t]*=/im, `parentCID=${digits}\n$&`);
  if (hintLine.test(withId)) return withId.replace(hintLine, () => ended(hint));
  return withId.replace(/^[ \t]*createType[ \t]*=.*(?:\r?\n)/im, (line) => line + ended(hint));
}
