/** The journal of this host, by the native protocol of systemd-journald(8): a datagram for each entry. */
import { fstatSync, writeSync } from 'node:fs';
import type { Fd } from './fd.ts';
import { fcntlNumber } from './ffi.ts';
import { connectDatagram } from './socket.ts';

const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
const STDERR = 2;

const JOURNAL_SOCKET = '/run/systemd/journal/socket';

export interface Journal {
  /** @returns false when it was not taken: nobody waits for a journal that is behind */
  send(fields: Readonly<Record<string, string | number | undefined>>): boolean;
}

/** True when what this process says on standard error goes to the journal, as systemd.exec(5) tells it. */
export function saysToJournal(env: Readonly<Record<string, string | undefined>>): boolean {
  const stream = env['JOURNAL_STREAM'];
  if (stream === undefined) return false;
  const { dev, ino } = fstatSync(STDERR, { bigint: true });
  return stream === `${dev}:${ino}`;
}

/** The journal at that socket, connected with the first entry, and again when journald was restarted. */
export function openJournal(path = JOURNAL_SOCKET): Journal {
  let socket: Fd | undefined;
  const tryToSend = (entry: Uint8Array): boolean => {
    try {
      socket ??= connectJournal(path);
      writeSync(socket.number, entry);
      return true;
    } catch {
      socket?.close();
      socket = undefined;
      return false;
    }
  };
  return {
    send(fields) {
      const entry = entryOf(fields);
      return tryToSend(entry) || tryToSend(entry);
    },
  };
}

function connectJournal(path: string): Fd {
  const socket = connectDatagram(path);
  fcntlNumber(socket.number, F_SETFL, O_NONBLOCK);
  return socket;
}

/** Values have one line each. */
function entryOf(fields: Readonly<Record<string, string | number | undefined>>): Uint8Array {
  const lines = Object.entries(fields).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}\n`],
  );
  return Buffer.from(lines.join(''));
}
