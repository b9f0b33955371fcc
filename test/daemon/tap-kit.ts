/** vbdd and vbd-tap beside an embedded host, whose guests' disks they serve. */
import { join } from 'node:path';
import type { ImageKeys } from '../../src/daemon/image-keys.ts';
import { openTap, type WatchedTap } from '../../src/daemon/tap-client.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import { createImage } from '../../src/image/open.ts';
import { type Limits, noLimits } from '../../src/ring/limiter.ts';
import type { WhenFull } from '../../src/ring/request-work.ts';
import { startTestHost, type TestHost } from '../host/test-host.ts';
import { startTapProcess, type TapProcess } from '../tap/tap-process.ts';
import { startTestDaemon, type TestDaemon } from './test-daemon.ts';

export const SIZE_BYTES = 8 << 20;

export interface TapKit extends AsyncDisposable {
  readonly tap: TapProcess;
  readonly host: TestHost;
  readonly vbdd: TestDaemon;
  image(name: string, format: ImageFormat): string;
  /**
   * Ends vbdd, and starts another in its place, after what happens meanwhile.
   * @param answerMs how long the tap may take over an order from then on
   */
  restart(meanwhile?: () => Promise<void>, answerMs?: number): Promise<void>;
  /** What the tap has open. */
  opened(): Promise<object[]>;
  /** What nbd devices are connected for. */
  connected(): Promise<string[]>;
}

/** A new image of `SIZE_BYTES`. */
export function makeImage(folder: string, name: string, format: ImageFormat): string {
  using files = createFileTable();
  const path = join(folder, name);
  createImage(path, { format, sizeBytes: SIZE_BYTES, options: {}, files });
  return path;
}

export interface TapKitOptions {
  /** Who serves images of kind vbd. */
  readonly images?: 'nbd' | 'ring';
  /** Where parents of images may be, beside each image's own folder. */
  readonly imageFolders?: readonly string[];
  readonly whenFull?: WhenFull;
  /** Passphrases of encrypted images. */
  readonly keys?: ImageKeys;
  /** Of every disk that is opened. */
  readonly limits?: Limits;
}

export async function startTapKit(options: TapKitOptions = {}): Promise<TapKit> {
  const { images = 'nbd', imageFolders = [], whenFull = 'pause', limits = noLimits } = options;
  const { keys } = options;
  const policy = { images, whenFull: () => whenFull };
  const opening = { folders: imageFolders, limits, ...(keys && { keys }) };
  await using stack = new AsyncDisposableStack();
  const tap = stack.use(await startTapProcess());
  const host = stack.use(await startTestHost({ guestsFolder: tap.guests }));
  let client: WatchedTap = openTap(tap.socket, 8000, opening);
  let vbdd = await startTestDaemon(host, { ...policy, tap: client });
  const stop = async (): Promise<void> => {
    await vbdd[Symbol.asyncDispose]();
    client[Symbol.dispose]();
  };
  stack.defer(stop);
  const owned = stack.move();
  return {
    tap,
    host,
    get vbdd() {
      return vbdd;
    },
    image: (name, format) => makeImage(host.dir, name, format),
    async restart(meanwhile, answerMs) {
      await stop();
      await meanwhile?.();
      client = openTap(tap.socket, answerMs ?? 8000, opening);
      vbdd = await startTestDaemon(host, { ...policy, tap: client });
    },
    async opened() {
      return (await tap.client.call<{ disks: object[] }>('GET', '/v1/status')).disks;
    },
    connected: () => host.machine.openNbd().names(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** A disk that Xen's own toolstack hands to vbdkit as kind vbd3. */
export const spec = (format: string, path: string, more = ''): string =>
  `backendtype=tap,format=vhd,vdev=xvda,script=block-vbd${more},target=${format}:${path}`;
