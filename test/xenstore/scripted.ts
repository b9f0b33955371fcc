/** A xenstored that does just what the test says: for what real ones do once in a blue moon. */
import type { Connect, TransportEvents } from '../../src/xenstore/transport.ts';
import { createMessageParser, createMessageWriter, MessageType } from '../../src/xenstore/wire.ts';

export interface Asked {
  readonly type: number;
  readonly requestId: number;
  readonly transactionId: number;
  readonly payload: string;
}

export interface Scripted {
  readonly connect: Connect;
  /** What was asked so far, by whichever connection. */
  readonly asked: Asked[];
  /** How many writes brought it. */
  batches: number;
  /** Sends a message to the newest connection, at once. */
  say(type: number, requestId: number, payload: string | Uint8Array): void;
  sayBytes(bytes: Uint8Array): void;
  /** Ends the newest connection. */
  hangUp(): void;
  /** Connections are refused while it is true. */
  down: boolean;
}

/** @param answer called for each request; most say something */
export function scripted(answer: (asked: Asked, server: Scripted) => void): Scripted {
  let events: TransportEvents | undefined;
  const writer = createMessageWriter();
  const server: Scripted = {
    asked: [],
    batches: 0,
    down: false,
    async connect(given) {
      if (server.down) throw new Error('down');
      events = given;
      const parser = createMessageParser((type, requestId, transactionId, payloadView) => {
        const asked = { type, requestId, transactionId, payload: payloadView.toString() };
        server.asked.push(asked);
        answer(asked, server);
      });
      return {
        send(bytes) {
          server.batches++;
          setImmediate(() => parser.feed(bytes));
        },
        close: () => server.hangUp(),
      };
    },
    say(type, requestId, payload) {
      writer.add(type, requestId, 0, payload);
      events?.onBytes(writer.take());
    },
    sayBytes: (bytes) => events?.onBytes(bytes),
    hangUp() {
      const gone = events;
      events = undefined;
      setImmediate(() => gone?.onClose());
    },
  };
  return server;
}

/** Says yes to everything. */
export function agree({ type, requestId }: Asked, server: Scripted): void {
  server.say(type, requestId, type === MessageType.transactionStart ? '1\0' : 'OK\0');
}
