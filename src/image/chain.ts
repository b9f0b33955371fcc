/**
 * Which files an image may lead to: those in its own folder and below, and in folders that the user
 * allowed, by whatever links; never a URL, nor itself, nor a chain without an end.
 */
import { realpathSync } from '../sys/node-fs.ts';
import { dirname, resolve, sep } from 'node:path';
import { Failure } from '../base/failure.ts';
import type { Bytes } from '../bytes/bytes.ts';
import { fileFacts } from '../sys/file.ts';

/** Images in a chain, the first one included. */
const MOST_IMAGES = 32;

/** `scheme:` of two letters or more, as in `nbd:`, `json:` and `https://`; `C:` is a folder's name. */
const scheme = /^[a-z][a-z0-9+.-]+:/i;

/** Where the names that an image's file holds are looked up. */
export interface Surroundings {
  readonly folder: string;
  /** Folders that what is found must be in: as they are named, and with links resolved. */
  readonly allowed: readonly string[];
  readonly allowedReal: readonly string[];
}

/** What an image at `path` may refer to: its own folder, and those that are allowed. */
export function surroundingsOf(path: string, allowPaths: readonly string[]): Surroundings {
  const folder = dirname(resolve(path));
  const allowed = [folder, ...allowPaths].map((folder) => resolve(folder));
  return { folder, allowed, allowedReal: allowed.map((folder) => realFolder(folder)) };
}

function realFolder(folder: string): string {
  try {
    return realpathSync(folder);
  } catch {
    return folder;
  }
}

/**
 * The path that a name in an image's file stands for. What is plainly elsewhere is not even looked
 * at; where links lead, `requireAllowed` sees.
 * @throws Failure denied
 */
export function resolveName(around: Surroundings, name: string): string {
  if (scheme.test(name) || name.includes('\0')) {
    throw new Failure('denied', `${name} is not a path — only files on this host are opened`);
  }
  const path = resolve(around.folder, name);
  if (!isInside(path, [...around.allowed, ...around.allowedReal])) throw elsewhere(around, path);
  return path;
}

/** @throws Failure denied when a file that was looked at is not where the image may lead */
export function requireAllowed(around: Surroundings, realPath: string): void {
  if (!isInside(realPath, around.allowedReal)) throw elsewhere(around, realPath);
}

/**
 * The folder that whoever opens an image has to allow, for a name that its file holds; undefined
 * where the name leads to a place that needs no leave.
 */
export function folderToAllow(imagePath: string, name: string): string | undefined {
  const around = surroundingsOf(imagePath, []);
  const path = resolve(around.folder, name);
  const isNear = isInside(path, [...around.allowed, ...around.allowedReal]);
  return isNear && isInside(realFolder(path), around.allowedReal) ? undefined : dirname(path);
}

function isInside(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) => path.startsWith(folder.endsWith(sep) ? folder : folder + sep));
}

function elsewhere({ folder }: Surroundings, path: string): Failure {
  const sentence = `${path} is outside of ${folder} — allow it with --allow-path`;
  return new Failure('denied', sentence, { path, outsideOf: folder });
}

/** Files of a chain from its first image down, as `identityOf` names them. */
export type Chain = readonly string[];

/** Tells a file from every other one, by whatever path; without a descriptor the path must do. */
export function identityOf({ fd, path }: Bytes): string {
  if (fd === undefined) return path;
  const { kind, represents, device, inode } = fileFacts(fd);
  if (kind === 'block') return `${represents.major}:${represents.minor}`;
  return `${device.major}:${device.minor} ${inode}`;
}

/** The chain with one more file. @throws Failure invalid when it is in it already, or too deep */
export function longerChain(chain: Chain, identity: string, path: string): Chain {
  if (chain.includes(identity)) {
    throw new Failure('invalid', `${path} is its own parent or extent — the chain has no end`);
  }
  return [...chain, identity];
}

/** @throws Failure invalid */
export function requireDepth(images: number, path: string): void {
  if (images < MOST_IMAGES) return;
  throw new Failure('invalid', `${path} has more than ${MOST_IMAGES} parents — merge some of them`);
}
