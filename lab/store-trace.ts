/** Reads the logs of requests of C xenstored (4.17 and 4.20) and of oxenstored. */

export interface StoreRequest {
  /** Seconds; of the epoch for C xenstored, of the day for oxenstored. */
  readonly at: number;
  /** The server's name for the client's connection. */
  readonly client: string;
  /** As in the wire protocol, in small letters: `read`, `write`, `rm`, `setperms`, `watch` … */
  readonly op: string;
  readonly path: string;
  /** What follows the path: a value, permissions, a token. */
  readonly rest: string;
}

/** C xenstored: `SECONDS [io: ]IN CONNECTION … DATE TIME OP (PATH REST)` after our own stamp. */
const line417 =
  /^(\d+\.\d+) (?:\w+: )?IN (\S+)(?: \(d\d+\))? \d{8} [\d:.]+ (\S+) \((\S*) ?(.*?) ?\)$/;

/** oxenstored: `[DATE TIME] CONNECTION OP PATH REST`. */
const lineO = /^\[\d{8}T(\d\d):(\d\d):(\d\d\.\d+)Z\]\s+(\S+)\s+(\w+)\s+(\S*) ?(.*)$/;

/** Every request in the text, in order; replies and other lines are left out. */
export function requestsOf(text: string): StoreRequest[] {
  const found: StoreRequest[] = [];
  for (const line of text.split('\n')) {
    const c = line417.exec(line);
    if (c !== null) {
      const [, at = '', client = '', op = '', path = '', rest = ''] = c;
      found.push({ at: Number(at), client, op: op.toLowerCase().replace('_', ''), path, rest });
      continue;
    }
    const o = lineO.exec(line);
    if (o === null) continue;
    const [, hour, minute, second, client = '', op = '', path = '', rest = ''] = o;
    const at = Number(hour) * 3600 + Number(minute) * 60 + Number(second);
    found.push({ at, client, op, path, rest });
  }
  return found;
}
