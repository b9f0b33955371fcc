/**
 * A worker of the tap: one loop over guests' event channels, the engine and the orders of the main
 * thread. It returns to Node's own loop only when it ends; whatever waits in it is woken by the
 * eventfd.
 */
import { readlinkSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { basename, join } from 'node:path';
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { setImmediate } from 'node:timers/promises';
import { createEngine } from '../image/engine.ts';
import { createFileTable, type FileTable } from '../image/file-table.ts';
import { lockedParts } from '../image/open.ts';
import { createTransfer } from '../image/transfer.ts';
import { embeddedHypervisor } from '../ring/embedded-hypervisor.ts';
import { xenHypervisor } from '../ring/xen-hypervisor.ts';
import { EPOLL } from '../sys/epoll.ts';
import { clearEventFd } from '../sys/wait.ts';
import { createAsks } from './asks.ts';
import { createDiskSockets } from './disk-sockets.ts';
import { createDisks, type Disks } from './disks.ts';
import { failureOfOrder } from './order-failures.ts';
import type { AnswerMessage, OrderMessage, Orders, ReadyMessage, WorkerOptions } from './orders.ts';
import { RECORDS_FOLDER, SOCKETS_FOLDER, STATISTICS_FOLDER } from './records.ts';
import { createRingLoop } from './ring-loop.ts';

const { wakeFd, ioFd, guestsFolder, runFolder, cacheBytes } = workerData as WorkerOptions;
const parent = parentOrThrow();

function parentOrThrow(): MessagePort {
  if (parentPort === null) throw new Error('this module runs as a worker');
  return parentPort;
}

async function obey(
  disks: Disks,
  files: FileTable,
  { kind, order }: OrderMessage,
): Promise<unknown> {
  switch (kind) {
    case 'lockedParts': {
      const { path, format, allowPaths } = (order as Orders['lockedParts']['order']).medium;
      return lockedParts(path, { format, allowPaths, files });
    }
    case 'open': {
      const { name, ...rest } = order as Orders['open']['order'];
      return disks.open(name, rest);
    }
    case 'connect': {
      const { name, ...rest } = order as Orders['connect']['order'];
      return disks.connect(name, rest);
    }
    case 'disconnect':
      return disks.disconnect((order as Orders['disconnect']['order']).name);
    case 'export':
      return disks.export((order as Orders['export']['order']).name);
    case 'change': {
      const { name, medium } = order as Orders['change']['order'];
      return disks.change(name, medium);
    }
    case 'resize': {
      const { name, sizeBytes } = order as Orders['resize']['order'];
      return disks.resize(name, sizeBytes);
    }
    case 'limit': {
      const { name, limits } = order as Orders['limit']['order'];
      return disks.limit(name, limits);
    }
    case 'whenFull': {
      const { name, whenFull } = order as Orders['whenFull']['order'];
      return disks.whenFull(name, whenFull);
    }
    case 'hold': {
      const { name, held } = order as Orders['hold']['order'];
      return disks.hold(name, held);
    }
    case 'close':
      return { fault: await disks.close((order as Orders['close']['order']).name) };
    case 'list':
      return disks.list();
    case 'stop':
      return leaveAll(disks);
  }
}

async function leaveAll(disks: Disks): Promise<readonly string[]> {
  const faults: string[] = [];
  for (const name of disks.names) {
    const fault = await disks.leave(name);
    if (fault !== undefined) faults.push(fault);
  }
  return faults;
}

function answerOf(id: number, thrown: unknown): AnswerMessage {
  const { kind, message, facts } = failureOfOrder(thrown);
  return { id, failure: { kind, message, facts } };
}

async function work(): Promise<void> {
  using files = createFileTable({ cacheBytes });
  using engine = createEngine(files, { keepOpen: ioFd });
  using hypervisor =
    guestsFolder === undefined ? xenHypervisor() : embeddedHypervisor(guestsFolder);
  using loop = createRingLoop({ hypervisor, engine });
  const transfer = createTransfer(files);
  using nbd = createDiskSockets({ loop, engine, files, folder: join(runFolder, SOCKETS_FOLDER) });
  const asks = createAsks(engine, loop);
  const disks = createDisks({
    files,
    transfer,
    loop,
    nbd,
    asks,
    recordsFolder: join(runFolder, RECORDS_FOLDER),
    statisticsFolder: join(runFolder, STATISTICS_FOLDER),
    onPause: (pause) => parent.postMessage(pause, []),
  });
  const state = { underWay: 0, stopped: false };
  const begin = async (message: OrderMessage): Promise<void> => {
    const { id, kind } = message;
    state.underWay += 1;
    const told = await obey(disks, files, message).then(
      (answer): AnswerMessage => ({ id, answer }),
      (thrown: unknown) => answerOf(id, thrown),
    );
    state.underWay -= 1;
    parent.postMessage(told, []);
    if (kind === 'stop') state.stopped = true;
  };
  loop.poller.add(wakeFd, EPOLL.IN, () => {
    clearEventFd(wakeFd);
    for (;;) {
      const received = receiveMessageOnPort(parent);
      if (received === undefined) return;
      void begin(received.message as OrderMessage);
    }
  });
  const thread = basename(readlinkSync('/proc/thread-self'));
  parent.postMessage({ thread } satisfies ReadyMessage, []);
  // Now, as one that is killed leaves nothing of it to its successor.
  flushCompileCache();
  while (!state.stopped) {
    loop.pass(-1);
    // Orders go on only here; requests need none of it.
    if (state.underWay > 0) await setImmediate();
  }
}

await work();
parent.close();
