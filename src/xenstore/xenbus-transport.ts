/**
 * The kernel's xenbus device. A read of it waits in the kernel and cannot be called off, and some
 * writes wait for xenstored; so a worker does both, waits with poll(2), and is woken by an eventfd.
 */
import { Worker } from 'node:worker_threads';
import { Failure } from '../base/failure.ts';
import { type Fd, O, openFd } from '../sys/fd.ts';
import { isErrno } from '../sys/ffi.ts';
import { createEventFd, signalEventFd } from '../sys/wait.ts';
import type { Connect } from './transport.ts';

/** What the worker is started with. */
export interface XenbusWorkerData {
  readonly device: number;
  readonly wake: number;
}

/** What it tells: that it has begun, bytes that came, or why it ends. */
export type FromXenbusWorker =
  | { ready: true }
  | { bytes: Uint8Array<ArrayBuffer> }
  | { failed: string };

/** @param path the device */
export function xenbusTransport(path: string): Connect {
  return xenbusTransportOver(() => {
    try {
      return openFd(path, O.RDWR);
    } catch (thrown) {
      if (!isErrno(thrown)) throw thrown;
      const sentence = `${path} does not open: ${thrown.code} — run as root in a Xen domain`;
      throw new Failure('unavailable', sentence, { path }, thrown);
    }
  });
}

/** The same over any descriptor that takes one message a write; it is closed with the transport. */
export function xenbusTransportOver(open: () => Fd): Connect {
  return async (events) => {
    const device = open();
    const wake = createEventFd();
    const workerData: XenbusWorkerData = { device: device.number, wake: wake.number };
    const worker = new Worker(new URL('./xenbus-worker.ts', import.meta.url), { workerData });
    let cause: Error | undefined;
    const ready = Promise.withResolvers<void>();
    worker.on('message', (told: FromXenbusWorker) => {
      if ('ready' in told) ready.resolve();
      else if ('bytes' in told) events.onBytes(told.bytes);
      else cause = new Failure('unavailable', told.failed);
    });
    worker.on('error', (error) => (cause = error));
    worker.on('exit', () => {
      // Only now is nobody left who could use the numbers.
      device.close();
      wake.close();
      ready.reject(cause ?? new Failure('unavailable', 'the worker at the xenbus device ended'));
      events.onClose(cause);
    });
    // Its modules load first, which takes seconds on a slow machine: no request's deadline counts them.
    await ready.promise;
    const tell = (message: Buffer | 'close'): void => {
      if (wake.closed) return;
      worker.postMessage(message, []);
      signalEventFd(wake.number);
    };
    const close = (): void => tell('close');
    // A process that exits waits for its workers, and this one sleeps in the kernel.
    process.once('exit', close);
    worker.once('exit', () => process.off('exit', close));
    return { send: tell, close };
  };
}
