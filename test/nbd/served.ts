/** Images served for a test, in a folder of their own. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Address, serveImages, type Serving } from '../../src/nbd/serve.ts';
import type { ImageToServe } from '../../src/nbd/serve-worker.ts';

export interface TestFolder extends Disposable {
  readonly path: string;
  file(name: string): string;
}

export function testFolder(): TestFolder {
  const path = mkdtempSync(join(tmpdir(), 'vbdkit-nbd-'));
  return {
    path,
    file: (name) => join(path, name),
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}

export interface Served extends Serving, AsyncDisposable {
  /** Where a client connects. */
  readonly at: { readonly path: string };
}

/** Serves on a socket in the folder until it is disposed. */
export async function serveIn(
  folder: TestFolder,
  ...images: (Partial<ImageToServe> & { readonly path: string })[]
): Promise<Served> {
  const socket = folder.file('nbd.sock');
  const address: Address = { socket };
  const full = images.map(
    (image) => ({ name: '', format: 'raw', writable: true, ...image }) as const,
  );
  const serving = await serveImages(full, address);
  return {
    ...serving,
    at: { path: socket },
    async [Symbol.asyncDispose]() {
      serving.stop();
      await serving.ended;
    },
  };
}
