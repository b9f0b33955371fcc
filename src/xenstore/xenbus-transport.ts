/**
 * The kernel's xenbus device. A read of it waits in the kernel and cannot be called off, and some
 * writes wait for xenstored; so a worker does both, waits with poll(2), and is woken by an eventfd.
 */
import { once } from 'node:events';
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

/** What it tells: bytes that came, or why it ends. */
export type FromXenbusWorker = { bytes: Uint8Array<ArrayBuffer> } | { failed: string };

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
    worker.on('message', (told: FromXenbusWorker) => {
      if ('bytes' in told) events.onBytes(told.bytes);
      else cause = new Failure('unavailable', told.failed);
    });
    worker.on('error', (error) => (cause = error));
    worker.on('exit', () => {
      // Only now is nobody left who could use the numbers.
      device.close();
      wake.close();
      events.onClose(cause);
    });
    await once(worker, 'online');
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
