/** The server's end of one connection: takes messages, carries them out, answers each in turn. */
import { Failure } from '../../base/failure.ts';
import { splitStrings } from '../payload.ts';
import { createMessageParser, createMessageWriter, MessageType } from '../wire.ts';
import type { Errno } from './limits.ts';
import { canonicalPath, watchPath } from './names.ts';
import * as nodes from './node-requests.ts';
import type { Outcome } from './node-requests.ts';
import type { View } from './nodes.ts';
import type { ServerState } from './state.ts';
import { createTransactionView, type TransactionView } from './transaction-view.ts';
import type { Watcher } from './watches.ts';

export interface Peer extends Watcher {
  readonly domid: number;
  /** Takes the next bytes from the client; ends the connection when they are no messages. */
  feed(chunkView: Uint8Array): void;
  /** Ends the connection: its watches and transactions are no more. */
  close(): void;
}

/** The far end of a connection. */
export interface PeerLink {
  deliver(bytes: Buffer): void;
  closed(): void;
  /** When to deliver what has come together since. */
  later(work: () => void): void;
}

const nodeRequests = new Map<number, (request: nodes.NodeRequest) => Outcome>([
  [MessageType.read, nodes.read],
  [MessageType.directory, nodes.directory],
  [MessageType.directoryPart, nodes.directoryPart],
  [MessageType.getPerms, nodes.getPermissions],
  [MessageType.write, nodes.write],
  [MessageType.mkdir, nodes.mkdir],
  [MessageType.rm, nodes.remove],
  [MessageType.setPerms, nodes.setPermissions],
]);
/** Those whose payload is a path and nothing more. */
const pathAlone = new Set<number>([
  MessageType.read,
  MessageType.directory,
  MessageType.getPerms,
  MessageType.mkdir,
  MessageType.rm,
]);

const ok: Outcome = { reply: 'OK\0' };

interface Conversation {
  readonly state: ServerState;
  readonly peer: Peer;
  readonly transactions: Map<number, TransactionView>;
  lastTransaction: number;
}

/** One that has just connected. */
export function createPeer(state: ServerState, domid: number, link: PeerLink): Peer {
  const writer = createMessageWriter();
  let due = false;
  let open = true;
  const add = (
    type: number,
    requestId: number,
    transactionId: number,
    payload: string | Buffer,
  ) => {
    writer.add(type, requestId, transactionId, payload);
    if (due) return;
    due = true;
    link.later(() => {
      due = false;
      if (open) link.deliver(writer.take());
    });
  };
  const peer: Peer = {
    domid,
    get target() {
      return state.targets.get(domid);
    },
    send: (path, token) => add(MessageType.watchEvent, 0, 0, `${path}\0${token}\0`),
    feed(chunkView) {
      try {
        if (open) parser.feed(chunkView);
      } catch (thrown) {
        if (!(thrown instanceof Failure)) throw thrown;
        peer.close();
      }
    },
    close() {
      if (!open) return;
      open = false;
      state.peers.delete(peer);
      state.watches.removeAll(peer);
      talk.transactions.clear();
      link.closed();
    },
  };
  const talk: Conversation = { state, peer, transactions: new Map(), lastTransaction: 0 };
  const parser = createMessageParser((type, requestId, transactionId, payloadView) => {
    if (!open) return;
    const outcome = answer(talk, type, transactionId, payloadView);
    if (typeof outcome === 'string') {
      add(MessageType.error, requestId, transactionId, `${outcome}\0`);
    } else if (type === MessageType.watch) {
      add(type, requestId, transactionId, outcome.reply);
      fireOnce(talk, payloadView);
    } else {
      add(type, requestId, transactionId, outcome.reply);
    }
  });
  state.peers.add(peer);
  return peer;
}

/** A new watch fires once by itself, right after its reply. */
function fireOnce({ peer }: Conversation, payloadView: Buffer): void {
  const [path = '', token = ''] = splitStrings(payloadView);
  peer.send(path, token);
}

function answer(
  talk: Conversation,
  type: number,
  transactionId: number,
  payloadView: Buffer,
): Outcome {
  const transaction = talk.transactions.get(transactionId);
  if (transactionId !== 0 && transaction === undefined) return 'ENOENT';
  const onNode = nodeRequests.get(type);
  if (onNode !== undefined) {
    return answerOnNode(talk, onNode, pathAlone.has(type), transaction, payloadView);
  }
  const strings = splitStrings(payloadView);
  switch (type) {
    case MessageType.watch:
      return watch(talk, strings);
    case MessageType.unwatch:
      return unwatch(talk, strings);
    case MessageType.resetWatches:
      talk.state.watches.removeAll(talk.peer);
      talk.transactions.clear();
      return ok;
    case MessageType.transactionStart:
      return start(talk, transaction);
    case MessageType.transactionEnd:
      return end(talk, transactionId, transaction, strings[0]);
    default:
      return talk.state.answerOnDomains(talk.peer, type, strings);
  }
}

function answerOnNode(
  { state, peer }: Conversation,
  carryOut: (request: nodes.NodeRequest) => Outcome,
  alone: boolean,
  transaction: TransactionView | undefined,
  payloadView: Buffer,
): Outcome {
  const end = payloadView.indexOf(0);
  if (end < 0 || (alone && end !== payloadView.length - 1)) return 'EINVAL';
  const { limits } = state;
  const path = canonicalPath(peer, limits, payloadView.toString('latin1', 0, end));
  if (path === undefined) return 'EINVAL';
  const view: View = transaction ?? state.tree;
  const restView = payloadView.subarray(end + 1);
  if (
    transaction !== undefined &&
    peer.domid !== 0 &&
    transaction.size >= limits.transactionNodes
  ) {
    return 'ENOSPC';
  }
  return carryOut({ view, caller: peer, limits, path, restView });
}

function watch({ state, peer }: Conversation, strings: readonly string[]): Outcome {
  const [given, token, depthText] = strings;
  if (given === undefined || token === undefined) return 'EINVAL';
  const path = watchPath(peer, state.limits, given);
  const depth = depthText === undefined || depthText === '' ? undefined : Number(depthText);
  if (path === undefined || (depth !== undefined && !(depth >= 0))) return 'EINVAL';
  if (peer.domid !== 0 && state.watches.countOf(peer.domid) > state.limits.watches) return 'E2BIG';
  return state.watches.add(peer, { given, path, token, depth }) ?? ok;
}

function unwatch({ state, peer }: Conversation, strings: readonly string[]): Outcome {
  const [given, token] = strings;
  if (given === undefined || token === undefined) return 'EINVAL';
  const path = watchPath(peer, state.limits, given);
  return path === undefined ? 'EINVAL' : (state.watches.remove(peer, path, token) ?? ok);
}

function start(talk: Conversation, within: TransactionView | undefined): Outcome {
  const { state, peer, transactions } = talk;
  if (within !== undefined) return 'EBUSY';
  if (peer.domid !== 0 && transactions.size > state.limits.transactions) return 'ENOSPC';
  do talk.lastTransaction = (talk.lastTransaction % 0xffffffff) + 1;
  while (transactions.has(talk.lastTransaction));
  transactions.set(talk.lastTransaction, createTransactionView(state.tree));
  return { reply: `${talk.lastTransaction}\0` };
}

function end(
  talk: Conversation,
  transactionId: number,
  transaction: TransactionView | undefined,
  how: string | undefined,
): Outcome {
  if (how !== 'T' && how !== 'F') return 'EINVAL';
  if (transaction === undefined) return 'ENOENT';
  talk.transactions.delete(transactionId);
  const conflict: Errno = 'EAGAIN';
  return how === 'F' || transaction.commit() ? ok : conflict;
}
