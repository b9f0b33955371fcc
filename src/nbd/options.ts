/** The data of handshake options that have any: what a client asks for, and what it is told. */
import type { NbdExport } from './exports.ts';
import { BITMAP_CONTEXT, Info, MAX_NAME_BYTES, MAX_PAYLOAD_BYTES } from './wire.ts';

/** Reads one option's data from its beginning to its end; `undefined` once it was too short. */
function reader(data: Uint8Array): {
  u16(): number | undefined;
  u32(): number | undefined;
  text(lengthBytes: number | undefined): string | undefined;
  atEnd(): boolean;
} {
  const view = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  let at = 0;
  const take = (lengthBytes: number): number | undefined => {
    if (at + lengthBytes > view.length) return undefined;
    at += lengthBytes;
    return at - lengthBytes;
  };
  return {
    u16() {
      const from = take(2);
      return from === undefined ? undefined : view.readUInt16BE(from);
    },
    u32() {
      const from = take(4);
      return from === undefined ? undefined : view.readUInt32BE(from);
    },
    text(lengthBytes) {
      if (lengthBytes === undefined || lengthBytes > MAX_NAME_BYTES) return undefined;
      const from = take(lengthBytes);
      return from === undefined ? undefined : view.toString('utf8', from, from + lengthBytes);
    },
    atEnd: () => at === view.length,
  };
}

/** INFO and GO: the export's name, and which facts are asked for; undefined when malformed. */
export function readExportChoice(
  data: Uint8Array,
): { name: string; infos: readonly number[] } | undefined {
  const from = reader(data);
  const name = from.text(from.u32());
  const count = from.u16();
  if (name === undefined || count === undefined) return undefined;
  const infos: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const info = from.u16();
    if (info === undefined) return undefined;
    infos.push(info);
  }
  return from.atEnd() ? { name, infos } : undefined;
}

/** What INFO and GO are told: size and flags always, the other facts when they were asked for. */
export function exportReplies(
  of: NbdExport,
  flags: number,
  asked: readonly number[],
): Uint8Array[] {
  const facts = Buffer.alloc(12);
  facts.writeUInt16BE(Info.export, 0);
  facts.writeBigUInt64BE(BigInt(of.image.sizeBytes), 2);
  facts.writeUInt16BE(flags, 10);
  const replies: Uint8Array[] = [facts];
  if (asked.includes(Info.name)) replies.push(textInfo(Info.name, of.name));
  if (asked.includes(Info.description) && of.description !== '') {
    replies.push(textInfo(Info.description, of.description));
  }
  if (asked.includes(Info.blockSize)) {
    const sizes = Buffer.alloc(14);
    sizes.writeUInt16BE(Info.blockSize, 0);
    sizes.writeUInt32BE(1, 2);
    sizes.writeUInt32BE(4096, 6);
    sizes.writeUInt32BE(MAX_PAYLOAD_BYTES, 10);
    replies.push(sizes);
  }
  return replies;
}

function textInfo(type: number, text: string): Uint8Array {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(type);
  return Buffer.concat([head, Buffer.from(text)]);
}

/** LIST and SET_META_CONTEXT: which export, and what is asked for; undefined when malformed. */
export function readContextQueries(
  data: Uint8Array,
): { name: string; queries: readonly string[] } | undefined {
  const from = reader(data);
  const name = from.text(from.u32());
  const count = from.u32();
  if (name === undefined || count === undefined) return undefined;
  const queries: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const query = from.text(from.u32());
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return from.atEnd() ? { name, queries } : undefined;
}

/**
 * Whether a context is meant. Only a list takes no queries, or a namespace (in qemu's also a kind)
 * alone, for all there are.
 */
export function meansContext(
  context: string,
  queries: readonly string[],
  choosing: boolean,
): boolean {
  if (queries.includes(context)) return true;
  if (choosing) return false;
  const groups = ['base:', 'qemu:', BITMAP_CONTEXT].filter((group) => context.startsWith(group));
  return queries.length === 0 || queries.some((query) => groups.includes(query));
}

/** What is told of a context. */
export function contextReply(id: number, context: string): Uint8Array {
  const number = Buffer.alloc(4);
  number.writeUInt32BE(id);
  return Buffer.concat([number, Buffer.from(context)]);
}

/** A sentence that comes with an error. */
export function messageOf(text: string): Uint8Array {
  return Buffer.from(text);
}
