/** vbdd's side of the tap: its orders, and word of its end and of its successor. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { OpenedImage, Tap } from '../backend/tap.ts';
import { sleep, within } from '../base/deadline.ts';
import { Failure } from '../base/failure.ts';
import type { ImagePlace } from '../disk/spec.ts';
import { type Limits, noLimits } from '../ring/limiter.ts';
import { type DiskStatistics, readStatistics } from '../ring/statistics.ts';
import { STATISTICS_FOLDER } from '../tap/records.ts';
import { type Client, openUnixClient } from '../tap/unix-client.ts';
import type { ImageKey, ImageKeys } from './image-keys.ts';

/** A tap that is watched: it may die, and another one come in its place. */
export interface WatchedTap extends Tap, Disposable {
  /** Told when the tap has ended, and when there is one (again). */
  onChange(listener: (there: boolean) => void): void;
  /** Told of a disk whose guest's writes begin to wait for room (why), and when they do no longer (null). */
  onPause(listener: (name: string, paused: string | null) => void): void;
}

/** How often a tap that is not there is looked for; just after its end guests wait for another. */
const LOOK_MS = 1000;
const SOON_MS = 50;
const SOON_LOOKS = 200;

type OpenedView = Omit<OpenedImage, 'clusterBytes' | 'sectorBytes' | 'depth'> & {
  readonly cluster_bytes: number;
  readonly sector_bytes: number;
  /** An older tap does not say it. */
  readonly depth?: number;
};

type FoundView = OpenedView & {
  readonly connected: boolean;
  readonly nbd_clients: number;
  readonly paused: string | null;
};
type ListedView = Pick<FoundView, 'connected' | 'nbd_clients' | 'paused'> & {
  readonly name: string;
};
type PauseView = Pick<ListedView, 'name' | 'paused'>;

/** What holds for images that the tap is to open. */
export interface TapImages {
  /** Where their parents and extents may be, beside each one's own folder. */
  readonly folders?: readonly string[];
  /** How fast their disks are, until they get other limits. */
  readonly limits?: Limits;
  /** The passphrases of those that are encrypted. */
  readonly keys?: ImageKeys;
}

/**
 * The vbd-tap at `socketPath`, looked for until this is disposed.
 * @param answerMs how long it may take over an order
 * @param images what holds for those that are opened
 */
export function openTap(socketPath: string, answerMs: number, images: TapImages = {}): WatchedTap {
  const advice = 'start it; disks that it serves wait for it';
  const client = openUnixClient(socketPath, { name: 'vbd-tap', advice });
  const stopped = new AbortController();
  const listeners = new Set<(there: boolean) => void>();
  let isThere = false;
  const tell = (there: boolean): void => {
    isThere = there;
    for (const listener of listeners) listener(there);
  };
  const pauseListeners = new Set<(name: string, paused: string | null) => void>();
  const tellPause = ({ name, paused }: PauseView): void => {
    for (const listener of pauseListeners) listener(name, paused);
  };
  void follow(client, tell, tellPause, stopped.signal);
  const disk = (name: string): string => `/v1/disks/${encodeURIComponent(name)}`;
  const { limits = noLimits } = images;
  const order: Client['call'] = (method, path, body) =>
    within(answerMs, 'the answer of vbd-tap', (signal) => client.call(method, path, body, signal));
  return {
    get isThere() {
      return isThere;
    },
    onChange: (listener) => void listeners.add(listener),
    onPause: (listener) => void pauseListeners.add(listener),
    async open(name, place, { writable, whenFull, beside }) {
      const common = { writable, beside, when_full: whenFull, limits: limitsView(limits) };
      return insert(order, images, disk(name), place, common);
    },
    change: (name, place) => insert(order, images, `${disk(name)}/medium`, place, {}),
    async connect(name, { takeUp, ...ring }) {
      await order('PUT', `${disk(name)}/ring`, { ...ring, take_up: takeUp });
    },
    disconnect: (name) => order('DELETE', `${disk(name)}/ring`),
    async export(name) {
      return (await order<{ socket: string }>('PUT', `${disk(name)}/nbd`)).socket;
    },
    async resize(name, size) {
      return imageOf(await order<OpenedView>('PUT', `${disk(name)}/size`, { size }));
    },
    limit: (name, wanted) => order('PUT', `${disk(name)}/limits`, limitsView(wanted)),
    hold: (name, held) => order('PUT', `${disk(name)}/held`, { held }),
    whenFull: (name, whenFull) => order('PUT', `${disk(name)}/when-full`, { when_full: whenFull }),
    keep: (names) => order('PUT', '/v1/kept', { names }),
    statistics: (name) => readPage(join(dirname(socketPath), STATISTICS_FOLDER, name)),
    async close(name) {
      // An older tap answers nothing.
      return (await order<{ fault?: string } | undefined>('DELETE', disk(name)))?.fault;
    },
    async find(name) {
      try {
        const found = await order<FoundView>('GET', disk(name));
        const { connected, nbd_clients: nbdClients, paused, ...image } = found;
        return { image: imageOf(image), connected, nbdClients, paused };
      } catch (thrown) {
        if (thrown instanceof Failure && thrown.kind === 'not-found') return undefined;
        throw thrown;
      }
    },
    async list() {
      const { disks } = await order<{ disks: ListedView[] }>('GET', '/v1/status');
      return disks.map(({ name, connected, nbd_clients: nbdClients, paused }) => {
        return { name, connected, nbdClients, paused };
      });
    },
    [Symbol.dispose]: () => stopped.abort(),
  };
}

/** Tells of the tap's coming and going. Our own end is not the tap's: of that it says nothing. */
async function follow(
  client: Client,
  tell: (there: boolean) => void,
  tellPause: (pause: PauseView) => void,
  stopped: AbortSignal,
): Promise<void> {
  const stop = Promise.withResolvers<void>();
  stopped.addEventListener('abort', () => stop.resolve(), { once: true });
  let soon = 0;
  while (!stopped.aborted) {
    try {
      using alive = await client.hold<object>('/v1/alive', {});
      tell(true);
      // It ends with the tap, of whose end the other one tells.
      client.follow('/v1/pauses', tellPause, stopped).catch(() => {});
      soon = SOON_LOOKS;
      await Promise.race([alive.ended, stop.promise]);
      if (!stopped.aborted) tell(false);
    } catch (thrown) {
      if (!(thrown instanceof Failure)) throw thrown;
    }
    soon -= 1;
    await sleep(soon > 0 ? SOON_MS : LOOK_MS, stopped).catch(() => {});
  }
}

function asFailure(thrown: unknown): Failure {
  if (thrown instanceof Failure) return thrown;
  throw thrown;
}

/** @throws Failure of the key, of the tap, or of opening the image */
async function insert(
  order: Client['call'],
  { folders = [], keys }: TapImages,
  path: string,
  place: ImagePlace | undefined,
  how: object,
): Promise<OpenedImage> {
  const key = place && (await keys?.(place.path).catch(asFailure));
  const passphrase =
    key === undefined || key instanceof Failure
      ? undefined
      : Buffer.from(key.passphrase).toString('base64');
  try {
    const wanted = { ...place, ...how, allow_paths: folders, passphrase };
    return imageOf(await order<OpenedView>('PUT', path, wanted));
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    // An image that is not encrypted opens whatever becomes of its folder's key.
    if (key instanceof Failure && thrown.facts['noKeyFor'] !== undefined) throw key;
    const sentence = sentenceForAdmin(thrown, place?.path, key);
    throw new Failure(thrown.kind, sentence, thrown.facts, thrown);
  }
}

/** Who opens an image by hand has flags for folders and keys; a guest's disk has the configuration. */
function sentenceForAdmin(
  { facts, message }: Failure,
  leaf: string | undefined,
  key: ImageKey | Failure | undefined,
): string {
  const { path, outsideOf, noKeyFor, wrongKeyFor } = facts;
  if (outsideOf !== undefined) {
    return `${path} is outside of ${outsideOf} — name its folder in image_folders of vbdkit.conf`;
  }
  if (noKeyFor !== undefined) {
    // A parent has no key of its own: what opens the image opens all of its chain.
    const key = `the file with its passphrase for ${leaf}`;
    return `${noKeyFor} is encrypted — name ${key} in image_keys of vbdkit.conf`;
  }
  if (wrongKeyFor === undefined || key === undefined || key instanceof Failure) return message;
  return `the passphrase in ${key.keyFile} does not open ${wrongKeyFor}`;
}

function readPage(path: string): DiskStatistics | undefined {
  try {
    const bytes = readFileSync(path);
    return readStatistics(new Uint8Array(bytes).buffer);
  } catch (thrown) {
    if (thrown instanceof Error && 'code' in thrown && thrown.code === 'ENOENT') return undefined;
    throw new Failure('io', `${path} cannot be read`, { path }, thrown);
  }
}

function limitsView({ iops, bytesPerSecond, burstSeconds }: Limits): object {
  return { iops, bytes_per_second: bytesPerSecond, burst_seconds: burstSeconds };
}

function imageOf(view: OpenedView): OpenedImage {
  const { cluster_bytes: clusterBytes, sector_bytes: sectorBytes, ...same } = view;
  return { depth: same.members.length, ...same, clusterBytes, sectorBytes };
}
