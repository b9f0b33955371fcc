/** The way through the kernel's device, on a stand-in that takes one message a write as it does. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createStore } from '../../src/xenstore/client.ts';
import { startStoreServer, type StoreServer } from '../../src/xenstore/embedded/server.ts';
import { Header } from '../../src/xenstore/wire.ts';
import { xenbusTransport, xenbusTransportOver } from '../../src/xenstore/xenbus-transport.ts';
import { type Fd, O, ownFd } from '../../src/sys/fd.ts';
import { fcntlNumber, isErrno, read, socketpair, write } from '../../src/sys/ffi.ts';
import { isKind, until } from './suite.ts';

interface Device extends Disposable {
  /** What the transport opens. */
  open(): Fd;
  /** The kernel's side breaks, as when the domain is torn down. */
  breakOff(): void;
}

const AF_UNIX = 1;
const SOCK_SEQPACKET = 5;
const F_SETFL = 4;

/**
 * Packets keep the bounds of writes, so that a write of more or less than a message is seen, and one
 * that the kernel would put over another, which it has not sent yet.
 */
function standIn(server: StoreServer, domid: number): Device {
  let far: Fd | undefined;
  let timer: NodeJS.Timeout | undefined;
  const packet = Buffer.alloc(2 * (Header.size + 4096));
  const breakOff = (): void => {
    clearInterval(timer);
    far?.close();
    far = undefined;
  };
  return {
    open() {
      const pair = new Int32Array(2);
      socketpair(AF_UNIX, SOCK_SEQPACKET, 0, new Uint8Array(pair.buffer));
      const [near = -1, farNumber = -1] = pair;
      far = ownFd(farNumber);
      fcntlNumber(farNumber, F_SETFL, O.NONBLOCK);
      const transport = server.transport(domid, {
        onBytes: (chunkView) => far && write(farNumber, chunkView, chunkView.length),
        onClose: () => {},
      });
      timer = setInterval(() => {
        const got = takePacket(farNumber, packet);
        if (got === 0) return;
        assert.equal(Header.size + packet.readUInt32LE(Header.at.lengthBytes), got);
        const message = Buffer.from(packet.subarray(0, got));
        assert.equal(takePacket(farNumber, packet), 0, 'a request was written over another');
        transport.send(message);
      }, 1);
      return ownFd(near);
    },
    breakOff,
    [Symbol.dispose]: breakOff,
  };
}

function takePacket(fd: number, packet: Buffer): number {
  try {
    return read(fd, packet, packet.length);
  } catch (thrown) {
    if (isErrno(thrown, 'EAGAIN')) return 0;
    throw thrown;
  }
}

test('a driver domain works through the device as dom0 does through the socket', async () => {
  await using server = startStoreServer();
  await using dom0 = server.connect(0);
  server.introduce(5);
  await dom0.mkdir('/local/domain/5');
  await dom0.setPermissions('/local/domain/5', [{ access: 'n', domid: 5 }]);
  using device = standIn(server, 5);
  await using store = await createStore(xenbusTransportOver(() => device.open()));
  const paths: string[] = [];
  await using _ = await store.observe('backend', ({ path }) => paths.push(path));
  await Promise.all([1, 2, 3].map((n) => store.write(`backend/vbd/${n}`, 'v'.repeat(n * 600))));
  assert.deepEqual(await store.directory('backend/vbd'), ['1', '2', '3']);
  await store.transaction(async (tx) => {
    const value = await tx.read('backend/vbd/1');
    void tx.write('backend/vbd/4', value ?? '');
    void tx.remove('backend/vbd/1');
  });
  assert.equal(await dom0.read('/local/domain/5/backend/vbd/4'), 'v'.repeat(600));
  assert.deepEqual(paths, [
    'backend',
    'backend/vbd/1',
    'backend/vbd/2',
    'backend/vbd/3',
    'backend/vbd/1',
    'backend/vbd/4',
  ]);
});

test('a device that breaks is opened again', async () => {
  await using server = startStoreServer();
  using device = standIn(server, 0);
  await using store = await createStore(xenbusTransportOver(() => device.open()));
  const told: boolean[] = [];
  using _ = store.onConnection((connected) => told.push(connected));
  await store.write('/a', '1');
  device.breakOff();
  await until(() => told.length === 2, 'the loss and the return');
  assert.equal(await store.read('/a'), '1');
});

test('a device that is not there is a failure', async () => {
  await assert.rejects(createStore(xenbusTransport('/nonexistent/xenbus')), isKind('unavailable'));
});

test('a process that exits with the device open does not wait for it', async () => {
  const module = (name: string): string =>
    JSON.stringify(join(import.meta.dirname, '../../src', name));
  const program = `
    import { createStore } from ${module('xenstore/client.ts')};
    import { xenbusTransportOver } from ${module('xenstore/xenbus-transport.ts')};
    import { createEventFd } from ${module('sys/wait.ts')};
    await createStore(xenbusTransportOver(createEventFd));
    setTimeout(() => process.exit(7), 100);
  `;
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-xenbus-'));
  try {
    // From a file: what is given to --eval is given to workers as well, which then do not start.
    const path = join(folder, 'program.mjs');
    writeFileSync(path, program);
    const child = spawn(process.execPath, [path], { stdio: 'inherit', timeout: 20_000 });
    const [code] = await once(child, 'exit');
    assert.equal(code, 7);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
