/** Opens and creates images by path: what is refused is refused before a format sees it. */
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { Failure } from '../base/failure.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { Bytes } from '../bytes/bytes.ts';
import { openFileBytes, type FileBytesOptions } from '../bytes/file-bytes.ts';
import {
  type Chain,
  identityOf,
  longerChain,
  requireAllowed,
  requireDepth,
  resolveName,
  type Surroundings,
  surroundingsOf,
} from './chain.ts';
import { addExtent, ExtentKind } from './extents.ts';
import type { LuksRegion, MasterKeys } from './crypt/luks.ts';
import type { FileTable } from './file-table.ts';
import type { Format, ImageFormat, ImageStream, OpenContext } from './formats.ts';
import type { Image } from './image.ts';
import { lockImageFile, type LockRequest } from './locks.ts';
import type * as newFilesRoom from './new-files.ts';
import { formatOf, probe } from './registry.ts';

/** What only new images need is loaded for them. */
const load = createRequire(import.meta.url);

export interface OpenOptions {
  /** Probed when absent: never leave it out for a disk that a guest may write. */
  readonly format?: ImageFormat | undefined;
  readonly writable: boolean;
  readonly files: FileTable;
  /** Folders besides the image's own that its parents and extents may be in. */
  readonly allowPaths?: readonly string[] | undefined;
  /** Past the page cache, for the engine's own calls. */
  readonly direct?: boolean | undefined;
  /** Whether its files are locked as qemu locks them; true unless said. */
  readonly lock?: boolean | undefined;
  /** Of the image, and of all its parents, that are encrypted. */
  readonly passphrase?: Uint8Array | undefined;
  /** Keys that were found apart, by `lockedParts` and `unlockApart`. */
  readonly keys?: MasterKeys | undefined;
  /** Only metadata are asked for: an encrypted image may stay locked. */
  readonly locked?: boolean | undefined;
  /** Told of each image that stays so. */
  readonly onLocked?: ((locked: LuksRegion) => void) | undefined;
  /**
   * Opens it though another has it open: for the destination of a migration. The source has
   * flushed it, writes nothing any more, and disposes it without closing it in order.
   */
  readonly share?: boolean | undefined;
  /** It is opened to be mended: also one that says that it is corrupt is writable then. */
  readonly repairs?: boolean | undefined;
  /**
   * What is in its chain from here on is not opened, and an empty image stands for it: its parent,
   * whatever that is, or an image that is open already.
   */
  readonly without?: 'parent' | Image | undefined;
  /** What children know it by stays as it is when it is written. */
  readonly keepsIdentity?: boolean | undefined;
  /** Opens a file by path; another one than the kernel's, for tests. */
  readonly openBytes?: ((path: string, options: FileBytesOptions) => Bytes) | undefined;
}

/** How work on whole images finds and opens them. */
export type ImageSources = Pick<
  OpenOptions,
  'format' | 'files' | 'allowPaths' | 'passphrase' | 'openBytes'
>;

/** How an image is opened, passed down its chain. */
interface Opening extends OpenOptions {
  readonly chain: Chain;
  readonly depth: number;
  /** Where it was named, for a parent. */
  readonly around?: Surroundings | undefined;
}

/**
 * Opens an image and its parents; disposing it closes their files.
 * @throws Failure not-found | denied | in-use | corrupt | unsupported | invalid | io; then nothing stays open
 */
export function openImage(path: string, options: OpenOptions): Image {
  const { added } = options.files;
  try {
    return openOne(path, { ...options, chain: [], depth: 0 });
  } catch (thrown) {
    options.files.closeSince(added);
    throw thrown;
  }
}

/**
 * What of an image and its parents is encrypted: found without a passphrase, beside whoever has it
 * open. Trying one takes seconds, which need not be where the image is served.
 * @throws Failure as openImage
 */
export function lockedParts(
  path: string,
  options: Pick<OpenOptions, 'format' | 'files' | 'allowPaths'>,
): LuksRegion[] {
  const found: LuksRegion[] = [];
  const onLocked = (locked: LuksRegion): void => void found.push(locked);
  const how = { writable: false, lock: false, locked: true, onLocked };
  openImage(path, { ...options, ...how })[Symbol.dispose]();
  return found;
}

function openOne(path: string, opening: Opening): Image {
  using opened = new DisposableStack();
  const bytes = openFile(opened, path, opening.writable, opening, opening.around);
  const chain = longerChain(opening.chain, identityOf(bytes), path);
  const format = formatOf(opening.format ?? probeBytes(bytes));
  if (opening.writable && !format.canWrite) {
    throw new Failure(
      'unsupported',
      `${format.name} images are read-only — ${path} cannot be written`,
    );
  }
  const image = format.open(bytes, contextOf(path, { ...opening, chain }, opened));
  opened.move();
  return image;
}

function openFile(
  opened: DisposableStack,
  path: string,
  writable: boolean,
  opening: Opening,
  around: Surroundings | undefined,
): Bytes {
  const allow = (realPath: string): void => {
    if (around !== undefined) requireAllowed(around, realPath);
  };
  return opened.use(openLocked(path, { ...opening, writable, allow }));
}

interface LockedOptions extends FileBytesOptions, LockRequest {
  readonly lock?: boolean | undefined;
  readonly openBytes?: OpenOptions['openBytes'];
}

function openLocked(path: string, options: LockedOptions): Bytes {
  using opened = new DisposableStack();
  const { lock, openBytes = openFileBytes } = options;
  const bytes = opened.use(openBytes(path, options));
  if (lock !== false && bytes.fd !== undefined) lockImageFile(bytes.fd, path, options);
  opened.move();
  return bytes;
}

function contextOf(path: string, opening: Opening, opened: DisposableStack): OpenContext {
  const around = surroundingsOf(path, opening.allowPaths ?? []);
  let { chain } = opening;
  return {
    writable: opening.writable,
    repairs: opening.repairs,
    parentless: opening.without === 'parent',
    keepsIdentity: opening.keepsIdentity,
    passphrase: opening.passphrase,
    keys: opening.keys,
    locked: opening.locked,
    onLocked: opening.onLocked,
    files: opening.files,
    openExtent(name, writable) {
      const extentPath = resolveName(around, name);
      const bytes = openFile(opened, extentPath, writable, opening, around);
      chain = longerChain(chain, identityOf(bytes), extentPath);
      return bytes;
    },
    openParent(names, format, isIt) {
      if (opening.without === 'parent') return standIn(path);
      const depth = opening.depth + 1;
      requireDepth(depth, path);
      const below: Opening = { ...opening, writable: false, format, chain, depth, around };
      return openFirst(path, names, below, around, isIt);
    },
  };
}

/** The image behind the first name that leads to the one that is meant. */
function openFirst(
  child: string,
  names: readonly string[],
  opening: Opening,
  around: Surroundings,
  isIt: ((image: Image) => string | undefined) | undefined,
): Image {
  const { added } = opening.files;
  let why = new Failure('not-found', `the parent of ${child} has no name that leads to it`);
  for (const name of names) {
    try {
      const parentPath = resolveName(around, name);
      const { without } = opening;
      const stands = typeof without === 'object' && isSameFile(without, parentPath, opening);
      const image = stands ? without : openOne(parentPath, opening);
      const objection = isIt?.(image);
      if (objection === undefined) return stands ? standIn(image.path) : image;
      if (!stands) image[Symbol.dispose]();
      why = new Failure('corrupt', `${name} is not the parent of ${child}: ${objection}`);
    } catch (thrown) {
      const next = thrown instanceof Failure && ['not-found', 'denied'].includes(thrown.kind);
      if (!next) throw thrown;
      opening.files.closeSince(added);
      if (why.kind === 'not-found') why = parentFailure(child, name, thrown);
    }
  }
  throw why;
}

/** Whether a path leads to the first file of an image that is open. */
export function isSameFile(
  { files: [first = -1] }: Image,
  path: string,
  opening: OpenOptions,
): boolean {
  const { files } = opening;
  // Its own lock, on the open image, must not be in the way.
  using bytes = openLocked(path, { ...opening, writable: false, lock: false });
  return identityOf(bytes) === identityOf(files.get(first));
}

/** An image without an end that holds nothing, in the place of one that is not opened. */
function standIn(path: string): Image {
  const none = (): never => {
    throw new Error('nobody writes to what stands for a parent');
  };
  return {
    format: 'raw',
    path,
    sizeBytes: Number.MAX_SAFE_INTEGER,
    writable: false,
    parent: undefined,
    files: [],
    clusterBytes: SECTOR_BYTES,
    map: (_, lengthBytes, out) =>
      addExtent(out, ExtentKind.absent, lengthBytes, -1, 0) ? lengthBytes : 0,
    planWrite: none,
    planZero: none,
    planFlush: none,
    planClose: none,
    planResize: none,
    info: () => ({}),
    check: none,
    [Symbol.dispose]: () => {},
  };
}

function parentFailure(child: string, name: string, cause: Failure): Failure {
  const sentence = `the parent of ${child} cannot be opened: ${cause.message}`;
  return new Failure(cause.kind, sentence, { ...cause.facts, name }, cause);
}

function probeBytes(bytes: Bytes): ImageFormat {
  const size = bytes.sizeBytes();
  const head = new Uint8Array(Math.min(size, 64 * 1024));
  const tail = new Uint8Array(Math.min(size, 2048));
  bytes.read(head, 0);
  bytes.read(tail, size - tail.length);
  return probe(head, tail);
}

export interface CreateOptions {
  readonly format: ImageFormat;
  /** That of the parent, when it is not said. */
  readonly sizeBytes?: number | undefined;
  /** The format's own, as given to `-o`. */
  readonly options?: Readonly<Record<string, string>> | undefined;
  /** The parent, named as the child is to store it: relative to the child's folder, or absolute. */
  readonly backing?:
    | { readonly path: string; readonly format?: ImageFormat | undefined }
    | undefined;
  readonly files: FileTable;
  readonly allowPaths?: readonly string[] | undefined;
  /** Of a new image that is to be encrypted, and of its parents. */
  readonly passphrase?: Uint8Array | undefined;
  /** Takes the place of files that exist. */
  readonly overwrite?: boolean | undefined;
}

/**
 * Creates an image; its files appear under their names when they are complete. A block device is
 * written as it is.
 * @throws Failure exists | invalid | unsupported | denied | exhausted | io; then nothing is left behind
 */
export function createImage(path: string, options: CreateOptions): void {
  using created = createFiles(path, options, (bytes, context) =>
    formatOf(options.format).create(bytes, context),
  );
  created.publish(true);
}

/** An image whose files have no names yet. Disposing it before it is published leaves nothing behind. */
export interface Draft extends Disposable {
  /** Writable; the caller closes it before it is published. */
  readonly image: Image;
  /** @param durable it is on stable storage when its files get their names */
  publish(durable: boolean): void;
}

/** Creates an image and opens it for writing, before anyone can see it. @throws Failure as createImage */
export function draftImage(path: string, options: CreateOptions): Draft {
  using stack = new DisposableStack();
  const format = formatOf(options.format);
  const created = stack.use(
    createFiles(path, options, (bytes, context) => format.create(bytes, context)),
  );
  const { added } = options.files;
  stack.defer(() => options.files.closeSince(added));
  const { backing, allowPaths = [] } = options;
  // Who names a parent allows it.
  const named = backing === undefined ? [] : [dirname(resolve(dirname(path), backing.path))];
  const allowed = { allowPaths: [...allowPaths, ...named] };
  const opening = { ...options, ...allowed, writable: true, chain: [], depth: 0 };
  const around = surroundingsOf(path, []);
  const image = format.open(created.open(path), {
    ...contextOf(path, opening, stack),
    openExtent: (name) => created.open(resolveName(around, name)),
  });
  const owned = stack.move();
  return {
    image,
    publish: (durable) => created.publish(durable),
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** As a draft, but written as a stream; undefined when the options do not ask for that. */
export interface StreamDraft extends Disposable {
  readonly stream: ImageStream;
  /** To be called after the stream has ended. */
  publish(durable: boolean): void;
}

/** @throws Failure as createImage */
export function draftStream(path: string, options: CreateOptions): StreamDraft | undefined {
  const format = formatOf(options.format);
  using stack = new DisposableStack();
  let stream: ImageStream | undefined;
  const created = stack.use(
    createFiles(path, options, (bytes, context) => {
      stream = format.createStream?.(bytes, context);
    }),
  );
  if (stream === undefined) return undefined;
  const owned = stack.move();
  return {
    stream,
    publish: (durable) => created.publish(durable),
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** @param write creates the image; the files stay open until the new files are disposed */
function createFiles(
  path: string,
  options: CreateOptions,
  write: Format['create'],
): newFilesRoom.NewFiles {
  const { backing } = options;
  const parentPath = backing && resolve(dirname(path), backing.path);
  using parent = parentPath
    ? openImage(parentPath, { ...options, format: backing.format, writable: false })
    : undefined;
  const sizeBytes = options.sizeBytes ?? parent?.sizeBytes;
  if (sizeBytes === undefined) throw new Failure('invalid', `no size was given for ${path}`);
  using stack = new DisposableStack();
  const { newFiles } = load('./new-files.ts') as typeof newFilesRoom;
  const created = stack.use(newFiles(options.overwrite === true, requireUnused));
  write(created.create(path), {
    path,
    sizeBytes,
    options: options.options ?? {},
    parent: parent && backing && { image: parent, name: backing.path },
    passphrase: options.passphrase,
    createFile: (name) => created.create(join(dirname(path), name)),
  });
  stack.move();
  return created;
}

/** @throws Failure in-use */
function requireUnused(path: string): void {
  openLocked(path, { writable: true })[Symbol.dispose]();
}
