/** What an NBD client says and hears in a handshake, as bytes; for tests. */

export function flags(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function option(number: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const header = Buffer.from('IHAVEOPT........', 'latin1');
  header.writeUInt32BE(number, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function sized(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([flags(bytes.length), bytes]);
}

/** The data of INFO and GO. */
export function exportChoice(name: string, infos: readonly number[] = []): Buffer {
  const tail = Buffer.alloc(2 + infos.length * 2);
  tail.writeUInt16BE(infos.length);
  for (const [index, info] of infos.entries()) tail.writeUInt16BE(info, 2 + index * 2);
  return Buffer.concat([sized(name), tail]);
}

/** The data of LIST_ and SET_META_CONTEXT. */
export function contextQuery(name: string, queries: readonly string[]): Buffer {
  return Buffer.concat([sized(name), flags(queries.length), ...queries.map(sized)]);
}

export interface Reply {
  readonly option: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** Takes option replies apart; all of `bytes` must be replies. */
export function parseReplies(bytes: Buffer): Reply[] {
  const replies: Reply[] = [];
  for (let at = 0; at < bytes.length;) {
    if (bytes.readBigUInt64BE(at) !== 0x3e889045565a9n) throw new Error('no reply begins there');
    const length = bytes.readUInt32BE(at + 16);
    const data = bytes.subarray(at + 20, at + 20 + length);
    replies.push({ option: bytes.readUInt32BE(at + 8), type: bytes.readUInt32BE(at + 12), data });
    at += 20 + length;
  }
  return replies;
}
