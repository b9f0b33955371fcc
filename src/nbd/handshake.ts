/**
 * The server's side of the fixed newstyle handshake, without a socket: bytes in, bytes out, until
 * the client has chosen an export or leaves.
 */
import { contextsOf, type ExportTable, type NbdExport, transmissionFlags } from './exports.ts';
import {
  contextReply,
  exportReplies,
  meansContext,
  messageOf,
  readContextQueries,
  readExportChoice,
} from './options.ts';
import {
  HandshakeFlag,
  INIT_MAGIC,
  Option,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC,
  OptionReply,
} from './wire.ts';

/** `required`: nothing but STARTTLS is answered; `done`: the bytes come out of a TLS session. */
export type TlsState = 'none' | 'required' | 'done';

/** What the two sides agreed on, when the handshake is over. */
export interface Agreed {
  readonly export: NbdExport;
  readonly structured: boolean;
  readonly extended: boolean;
  /** The metadata contexts that block status tells, as `contextsOf` numbers them. */
  readonly contexts: readonly number[];
}

export interface Handshake {
  readonly exports: ExportTable;
  readonly tls: TlsState;
  /** `flags`: the client's come next; `tls`: a TLS session begins with the next byte. */
  phase: 'flags' | 'options' | 'tls' | 'agreed' | 'closed';
  noZeroes: boolean;
  structured: boolean;
  extended: boolean;
  /** The metadata contexts that were chosen, and the export that they are of. */
  contexts: readonly number[];
  contextOf: NbdExport | undefined;
  agreed: Agreed | undefined;
  /** What is to be sent. */
  readonly out: Uint8Array[];
}

/** More than any option needs: 4 KiB of name and a few dozen queries. */
const MAX_OPTION_BYTES = 64 * 1024;

/** A handshake that begins with the greeting; after STARTTLS (`done`) it goes on with options. */
export function startHandshake(exports: ExportTable, tls: TlsState, noZeroes = false): Handshake {
  const greeting = Buffer.alloc(18);
  greeting.writeUInt32BE(INIT_MAGIC[0], 0);
  greeting.writeUInt32BE(INIT_MAGIC[1], 4);
  greeting.writeUInt32BE(OPTION_MAGIC[0], 8);
  greeting.writeUInt32BE(OPTION_MAGIC[1], 12);
  greeting.writeUInt16BE(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes, 16);
  return {
    exports,
    tls,
    phase: tls === 'done' ? 'options' : 'flags',
    noZeroes,
    structured: false,
    extended: false,
    contexts: [],
    contextOf: undefined,
    agreed: undefined,
    out: tls === 'done' ? [] : [greeting],
  };
}

/**
 * Takes whole messages from the beginning of `input`; replies are added to `out`.
 * @returns how many bytes were taken: what follows belongs to the next call, or to the next phase
 */
export function advance(handshake: Handshake, input: Uint8Array): number {
  let used = 0;
  while (handshake.phase === 'flags' || handshake.phase === 'options') {
    const step =
      handshake.phase === 'flags'
        ? takeFlags(handshake, input.subarray(used))
        : takeOption(handshake, input.subarray(used));
    if (step === 0) break;
    used += step;
  }
  return used;
}

function takeFlags(handshake: Handshake, input: Uint8Array): number {
  if (input.length < 4) return 0;
  const flags = viewOf(input).getUint32(0);
  const known = HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes;
  handshake.phase = (flags & ~known) === 0 ? 'options' : 'closed';
  handshake.noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
  return 4;
}

function takeOption(handshake: Handshake, input: Uint8Array): number {
  if (input.length < OPTION_HEADER_BYTES) return 0;
  const view = viewOf(input);
  if (view.getUint32(0) !== OPTION_MAGIC[0] || view.getUint32(4) !== OPTION_MAGIC[1]) {
    handshake.phase = 'closed';
    return OPTION_HEADER_BYTES;
  }
  const option = view.getUint32(8);
  const length = view.getUint32(12);
  if (length > MAX_OPTION_BYTES) {
    reply(handshake, option, OptionReply.tooBig, messageOf('the option is too long'));
    handshake.phase = 'closed';
    return OPTION_HEADER_BYTES;
  }
  const end = OPTION_HEADER_BYTES + length;
  if (input.length < end) return 0;
  const data = input.subarray(OPTION_HEADER_BYTES, end);
  const row = options[option];
  if (option === Option.exportName) chooseByName(handshake, data);
  else if (handshake.tls === 'required' && option !== Option.startTls && option !== Option.abort) {
    reply(handshake, option, OptionReply.tlsRequired, messageOf('STARTTLS must come first'));
  } else if (row === undefined) reply(handshake, option, OptionReply.unsupported);
  else if (row.empty && length > 0) {
    reply(handshake, option, OptionReply.invalid, messageOf('the option takes no data'));
  } else row.take(handshake, option, data);
  return end;
}

interface OptionRow {
  /** It carries no data. */
  readonly empty: boolean;
  take(handshake: Handshake, option: number, data: Uint8Array): void;
}

/** The options that are answered. EXPORT_NAME is not here: it has no reply of this form. */
const options: Readonly<Record<number, OptionRow>> = {
  [Option.abort]: {
    empty: false,
    take(handshake, option) {
      reply(handshake, option, OptionReply.ack);
      handshake.phase = 'closed';
    },
  },
  [Option.list]: {
    empty: true,
    take(handshake, option) {
      for (const each of handshake.exports.list()) {
        const name = Buffer.from(each.name);
        const entry = Buffer.alloc(4);
        entry.writeUInt32BE(name.length);
        const said = Buffer.concat([entry, name, Buffer.from(each.description)]);
        reply(handshake, option, OptionReply.server, said);
      }
      reply(handshake, option, OptionReply.ack);
    },
  },
  [Option.startTls]: {
    empty: true,
    take(handshake, option) {
      if (handshake.tls !== 'required') {
        const kind = handshake.tls === 'done' ? OptionReply.invalid : OptionReply.policy;
        return reply(handshake, option, kind, messageOf('TLS is not offered here'));
      }
      reply(handshake, option, OptionReply.ack);
      handshake.phase = 'tls';
    },
  },
  [Option.info]: { empty: false, take: tellExport },
  [Option.go]: { empty: false, take: tellExport },
  [Option.structuredReply]: {
    empty: true,
    take(handshake, option) {
      if (handshake.extended) {
        const says = messageOf('extended headers have chunks already');
        return reply(handshake, option, OptionReply.extendedHeadersRequired, says);
      }
      handshake.structured = true;
      reply(handshake, option, OptionReply.ack);
    },
  },
  [Option.extendedHeaders]: {
    empty: true,
    take(handshake, option) {
      handshake.structured = true;
      handshake.extended = true;
      reply(handshake, option, OptionReply.ack);
    },
  },
  [Option.listMetaContext]: { empty: false, take: tellContexts },
  [Option.setMetaContext]: { empty: false, take: tellContexts },
};

function reply(
  handshake: Handshake,
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(),
): void {
  const header = Buffer.alloc(OPTION_REPLY_HEADER_BYTES);
  header.writeUInt32BE(OPTION_REPLY_MAGIC[0], 0);
  header.writeUInt32BE(OPTION_REPLY_MAGIC[1], 4);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  handshake.out.push(header, data);
}

/** INFO and GO. */
function tellExport(handshake: Handshake, option: number, data: Uint8Array): void {
  const choice = readExportChoice(data);
  if (choice === undefined) {
    return reply(handshake, option, OptionReply.invalid, messageOf('the option is malformed'));
  }
  const found = handshake.exports.find(choice.name);
  if (found === undefined) {
    return reply(handshake, option, OptionReply.unknown, messageOf('there is no such export'));
  }
  const flags = transmissionFlags(found, handshake.structured);
  for (const info of exportReplies(found, flags, choice.infos)) {
    reply(handshake, option, OptionReply.info, info);
  }
  reply(handshake, option, OptionReply.ack);
  if (option === Option.go) agree(handshake, found);
}

/** LIST_META_CONTEXT and SET_META_CONTEXT. */
function tellContexts(handshake: Handshake, option: number, data: Uint8Array): void {
  const choosing = option === Option.setMetaContext;
  if (choosing) handshake.contextOf = undefined;
  if (!handshake.structured) {
    const says = messageOf('structured replies must be agreed on first');
    return reply(handshake, option, OptionReply.invalid, says);
  }
  const asked = readContextQueries(data);
  if (asked === undefined) {
    return reply(handshake, option, OptionReply.invalid, messageOf('the option is malformed'));
  }
  const found = handshake.exports.find(asked.name);
  if (found === undefined) {
    return reply(handshake, option, OptionReply.unknown, messageOf('there is no such export'));
  }
  const contexts: number[] = [];
  for (const [id, context] of contextsOf(found).entries()) {
    if (!meansContext(context, asked.queries, choosing)) continue;
    reply(handshake, option, OptionReply.metaContext, contextReply(id, context));
    contexts.push(id);
  }
  if (choosing) {
    handshake.contexts = contexts;
    handshake.contextOf = found;
  }
  reply(handshake, option, OptionReply.ack);
}

/** EXPORT_NAME: the old way, which knows no errors and no more options. */
function chooseByName(handshake: Handshake, data: Uint8Array): void {
  const found = handshake.exports.find(Buffer.from(data).toString());
  if (found === undefined || handshake.tls === 'required' || handshake.extended) {
    handshake.phase = 'closed';
    return;
  }
  const answer = Buffer.alloc(handshake.noZeroes ? 10 : 134);
  answer.writeBigUInt64BE(BigInt(found.image.sizeBytes), 0);
  answer.writeUInt16BE(transmissionFlags(found, handshake.structured), 8);
  handshake.out.push(answer);
  agree(handshake, found);
}

function agree(handshake: Handshake, found: NbdExport): void {
  const { structured, extended } = handshake;
  // A context chosen for another export is none of this one.
  const contexts = handshake.contextOf === found ? handshake.contexts : [];
  handshake.agreed = { export: found, structured, extended, contexts };
  handshake.phase = 'agreed';
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
