/** The protocol spoken by hand: what the client never says, and everything that comes back. */
import type { Connect } from '../../src/xenstore/transport.ts';
import { createMessageParser, createMessageWriter, MessageType } from '../../src/xenstore/wire.ts';

export type RequestName = keyof typeof MessageType;

export interface RawClient extends AsyncDisposable {
  /**
   * Sends a request; resolves with its reply as text: its type's name, and `|` for each NUL.
   * `CLOSED` when the connection ended instead.
   */
  ask(name: RequestName, payload: string | Uint8Array, transactionId?: number): Promise<string>;
  /** Events and replies since the last call, in the order of the stream. */
  takeLog(): string[];
  /** Begins a transaction and resolves with its number. */
  begin(): Promise<number>;
  /** Sends these bytes as they are. */
  sendBytes(bytes: Buffer): void;
  readonly closed: Promise<void>;
}

const names = new Map<number, string>(
  Object.entries(MessageType).map(([name, type]) => [type, name]),
);

export async function openRaw(connect: Connect): Promise<RawClient> {
  const writer = createMessageWriter();
  let waiting: ((reply: string) => void)[] = [];
  const closed = Promise.withResolvers<void>();
  let log: string[] = [];
  let lastId = 0;
  const parser = createMessageParser((type, _requestId, _transactionId, payloadView) => {
    const name = type === MessageType.error ? 'ERROR' : (names.get(type) ?? String(type));
    const line = `${name} ${payloadView.toString().replaceAll('\0', '|')}`;
    log.push(line);
    if (type !== MessageType.watchEvent) waiting.shift()?.(line);
  }, 2 ** 20);
  const transport = await connect({
    onBytes: (chunkView) => parser.feed(chunkView),
    onClose() {
      for (const settle of waiting) settle('CLOSED');
      waiting = [];
      closed.resolve();
    },
  });
  const client: RawClient = {
    ask(name, payload, transactionId = 0) {
      writer.add(MessageType[name], ++lastId, transactionId, payload);
      const reply = new Promise<string>((resolve) => waiting.push(resolve));
      transport.send(writer.take());
      return reply;
    },
    takeLog() {
      const taken = log;
      log = [];
      return taken;
    },
    async begin() {
      const reply = await client.ask('transactionStart', '\0');
      return Number(/\d+/.exec(reply)?.[0]);
    },
    sendBytes: (bytes) => transport.send(bytes),
    closed: closed.promise,
    async [Symbol.asyncDispose]() {
      transport.close();
      await closed.promise;
    },
  };
  return client;
}
