/**
 * Guests whose device model is vbdkit's stand-in (libexec/xen-qemu): what libxl asks of a qemu before
 * it lets the guest run is answered here, in QMP, and in the store.
 */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  watch,
} from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { sentenceOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { openPid, takeFd } from '../sys/peer.ts';
import type { Store } from '../xenstore/store.ts';

export interface DeviceModels extends AsyncDisposable {
  /** Whether the guest's device model serves no disks: they are vbdkit's. */
  standsIn(domid: number): boolean;
  /** Called when that becomes true of a guest. */
  onChange(listener: (domid: number) => void): void;
}

export interface DeviceModelOptions {
  /** Where the stand-in notes what it was started for. */
  readonly folder: string;
  readonly store: Store;
  readonly log: Log;
}

/** Follows the stand-ins that run already, and those to come. */
export async function followDeviceModels(options: DeviceModelOptions): Promise<DeviceModels> {
  const { folder, log } = options;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  await using stack = new AsyncDisposableStack();
  const models = new Map<string, AsyncDisposable>();
  const listeners = new Set<(domid: number) => void>();
  const begin = async (name: string): Promise<void> => {
    const [whose = '', pid = '', where = ''] = read(join(folder, name)).trim().split(' ');
    if (name.startsWith('probe-')) {
      await answerProbe(options, name, Number(pid), Number(where));
      models.delete(name);
      return;
    }
    const domid = Number(whose);
    const end = async (): Promise<void> => {
      const model = models.get(name);
      models.delete(name);
      rmSync(join(folder, name), { force: true });
      await model?.[Symbol.asyncDispose]();
    };
    models.set(name, await serveModel(options, domid, Number(pid), where, end));
    for (const listener of listeners) listener(domid);
  };
  const look = async (): Promise<void> => {
    for (const name of readdirSync(folder)) {
      if (name.startsWith('.') || models.has(name)) continue;
      models.set(name, { [Symbol.asyncDispose]: async () => {} });
      await begin(name).catch((thrown: unknown) => {
        models.delete(name);
        rmSync(join(folder, name), { force: true });
        log('warning', `the device model ${name} cannot be stood in for: ${sentenceOf(thrown)}`);
      });
    }
  };
  const watcher = watch(folder, () => void look());
  watcher.on('error', (thrown) => log('warning', `${folder} is not followed: ${thrown.message}`));
  stack.defer(() => watcher.close());
  stack.defer(async () => {
    for (const model of models.values()) await model[Symbol.asyncDispose]();
  });
  await look();
  const owned = stack.move();
  return {
    standsIn: (domid) => models.has(String(domid)),
    onChange: (listener) => void listeners.add(listener),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function read(path: string): string {
  return readFileSync(path, 'utf8');
}

/** Until libxl has removed what it keeps of the guest's device model. */
async function serveModel(
  { store, log }: DeviceModelOptions,
  domid: number,
  pid: number,
  socket: string,
  end: () => Promise<void>,
): Promise<AsyncDisposable> {
  // Dom0's own is asked nothing, and its process has ended.
  if (domid === 0) return { [Symbol.asyncDispose]: async () => {} };
  if (!existsSync(`/proc/${pid}`)) throw new Error('it has ended');
  await using stack = new AsyncDisposableStack();
  rmSync(socket, { force: true });
  const server = createServer((client) => answerQmp(client, () => {}));
  await listen(server, { path: socket });
  chmodSync(socket, 0o600);
  stack.defer(() => void server.close());
  const state = `device-model/${domid}/state`;
  if ((await store.read(state)) !== 'running') await store.write(state, 'running');
  const watch = await store.observe(`device-model/${domid}`, () => {
    // A store that was lost says no more of it; its watch fires again when it is back.
    store.read(state).then(
      (value) => (value === undefined ? end() : undefined),
      () => {},
    );
  });
  stack.defer(() => watch[Symbol.asyncDispose]());
  log('info', `stands in for the device model of domain ${domid}`);
  const owned = stack.move();
  return { [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** libxl waits no longer for what its qemu can do. */
const PROBE_MS = 10_000;

/** libxl listens itself, and its child has the socket: that is taken from it. */
async function answerProbe(
  { folder }: DeviceModelOptions,
  name: string,
  pid: number,
  number: number,
): Promise<void> {
  using child = openPid(pid);
  const listening = takeFd(child.number, number);
  rmSync(join(folder, name), { force: true });
  const server = createServer((client) => {
    client.once('close', () => server.close());
    answerQmp(client, () => process.kill(pid, 'SIGTERM'));
  });
  setTimeout(() => server.close(), PROBE_MS).unref();
  await listen(server, { fd: listening.number });
}

async function listen(server: Server, where: { path: string } | { fd: number }): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen(where, resolve);
  await promise;
}

const greeting = {
  QMP: { version: { qemu: { major: 7, minor: 2, micro: 0 }, package: 'vbdkit' }, capabilities: [] },
};

/** What libxl asks of a qemu that serves a guest's disks; there are no character devices in it. */
const answers: Readonly<Record<string, unknown>> = {
  qmp_capabilities: {},
  'query-chardev': [],
  'query-command-line-options': [],
  quit: {},
};

function answerQmp(client: Socket, onQuit: () => void): void {
  const say = (message: object): void => void client.write(`${JSON.stringify(message)}\r\n`);
  let text = '';
  client.setEncoding('utf8').unref();
  client.on('error', () => client.destroy());
  client.on('data', (chunk: string) => {
    text += chunk;
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) {
      const { execute = '', id } = parse(line);
      if (!(execute in answers)) {
        say({ error: { class: 'CommandNotFound', desc: `${execute} is not known here` }, id });
        continue;
      }
      say({ return: answers[execute], id });
      if (execute === 'quit') client.end(onQuit);
    }
  });
  say(greeting);
}

function parse(line: string): { execute?: string; id?: unknown } {
  try {
    return JSON.parse(line) as { execute?: string; id?: unknown };
  } catch {
    return {};
  }
}
