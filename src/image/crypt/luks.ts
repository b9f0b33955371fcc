/** LUKS, version 1, as cryptsetup's on-disk specification has it: the header, and the key behind a passphrase. */
import {
  hash as digestOf,
  pbkdf2,
  pbkdf2Sync,
  randomBytes,
  randomUUID,
  timingSafeEqual,
} from 'node:crypto';
import { promisify } from 'node:util';
import { Failure } from '../../base/failure.ts';
import { bytes, struct, u16be, u32be } from '../../base/struct.ts';
import { CRYPT_SECTOR_BYTES, sectorCipher } from './sector-cipher.ts';

export const LuksHeader = struct(208, {
  /** «LUKS», 0xba, 0xbe. */
  magic: bytes(6),
  version: u16be,
  cipherName: bytes(32),
  cipherMode: bytes(32),
  hashSpec: bytes(32),
  /** In sectors of 512 bytes, as all offsets here. */
  payloadOffset: u32be,
  keyBytes: u32be,
  digest: bytes(20),
  digestSalt: bytes(32),
  digestIterations: u32be,
  uuid: bytes(40),
});

/** One of eight passphrases: the key, spread over many stripes and encrypted. */
export const LuksSlot = struct(48, {
  active: u32be,
  iterations: u32be,
  salt: bytes(32),
  keyMaterialOffset: u32be,
  stripes: u32be,
});

const MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
/** The hashes that are known. */
const digestBytes: Readonly<Record<string, number>> = { sha1: 20, sha256: 32, sha512: 64 };
const SLOTS = 8;
const ACTIVE = 0x00ac71f3;
const INACTIVE = 0x0000dead;
const STRIPES = 4000;
export const LUKS_HEADER_BYTES: number = LuksHeader.size + SLOTS * LuksSlot.size;
/** So that who opens a stranger's image is not kept for hours. */
const MOST_ITERATIONS = 2 ** 26;
const ALIGN_SECTORS = 8;

export interface Luks {
  readonly header: ReturnType<typeof LuksHeader.get>;
  readonly slots: readonly ReturnType<typeof LuksSlot.get>[];
  /** As the header names it, behind `aes-`. */
  readonly mode: string;
  readonly hash: string;
}

/** Reads the header that `region` begins with. @throws Failure corrupt | unsupported */
export function readLuks(region: Uint8Array, path: string): Luks {
  const bad = (what: string): Failure =>
    new Failure('corrupt', `the LUKS header of ${path} is damaged: ${what}`);
  if (region.length < LUKS_HEADER_BYTES) throw bad('it is cut off');
  const header = LuksHeader.get(region);
  if (!MAGIC.equals(header.magic)) throw bad('it does not begin with LUKS');
  if (header.version !== 1) {
    throw new Failure('unsupported', `${path} is encrypted by LUKS of another version than 1`);
  }
  const [cipher, mode, hash] = [header.cipherName, header.cipherMode, header.hashSpec].map(textOf);
  if (cipher !== 'aes' || mode === undefined || digestBytes[hash ?? ''] === undefined) {
    throw new Failure('unsupported', `${path} is encrypted by ${cipher}-${mode} and ${hash}`);
  }
  if (header.keyBytes > 64) throw bad(`its key is of ${header.keyBytes} bytes`);
  const slots = Array.from({ length: SLOTS }, (_, index) =>
    LuksSlot.get(region, LuksHeader.size + index * LuksSlot.size),
  );
  for (const { active, stripes, keyMaterialOffset } of slots) {
    if (active !== ACTIVE) continue;
    const end = keyMaterialOffset * CRYPT_SECTOR_BYTES + header.keyBytes * STRIPES;
    if (stripes !== STRIPES || end > region.length) throw bad('a key is not where it can be');
  }
  const counts = slots.filter(isActive).map(({ iterations }) => iterations);
  const most = Math.max(header.digestIterations, ...counts);
  if (most > MOST_ITERATIONS || Math.min(header.digestIterations, ...counts) === 0) {
    throw new Failure('unsupported', `a passphrase of ${path} takes ${most} rounds to try`);
  }
  return { header, slots, mode, hash: hash ?? '' };
}

/** Whether a passphrase belongs to the slot. */
export function isActive({ active }: ReturnType<typeof LuksSlot.get>): boolean {
  return active === ACTIVE;
}

/** The header of an encrypted image with all its key material, as it is in the file `path`. */
export interface LuksRegion {
  readonly region: Uint8Array;
  readonly path: string;
}

/** Keys of images, by what `keyName` says of their headers. */
export type MasterKeys = ReadonlyMap<string, Uint8Array>;

/** What a header knows its key by. */
export function keyName({ header: { digest, digestSalt } }: Luks): string {
  return Buffer.concat([digest, digestSalt]).toString('hex');
}

/** One run of PBKDF2: made to take long. */
type Derivation = [
  secret: Uint8Array,
  salt: Uint8Array,
  iterations: number,
  keyBytes: number,
  hash: string,
];

/** @throws Failure denied when it is none of the passphrases */
export function unlock(
  luks: Luks,
  { region, path }: LuksRegion,
  passphrase: Uint8Array,
): Uint8Array {
  const work = unlocking(luks, region, passphrase);
  let turn = work.next();
  while (turn.done !== true) turn = work.next(pbkdf2Sync(...turn.value));
  return turn.value ?? wrong(path);
}

const deriveApart = promisify(pbkdf2);

/**
 * The same in threads of Node's own: nothing else waits for it.
 * @param isWanted asked before each part of it
 * @returns a key as `MasterKeys` have them
 * @throws Failure corrupt | unsupported | denied; gone when it is not wanted any more
 */
export async function unlockApart(
  { region, path }: LuksRegion,
  passphrase: Uint8Array,
  isWanted: () => boolean,
): Promise<readonly [name: string, key: Uint8Array]> {
  const luks = readLuks(region, path);
  const work = unlocking(luks, region, passphrase);
  let turn = work.next();
  while (turn.done !== true) {
    if (!isWanted()) throw new Failure('gone', `nobody waits for ${path} any more`);
    turn = work.next(await deriveApart(...turn.value));
  }
  return [keyName(luks), turn.value ?? wrong(path)];
}

/** Tries one slot after another; each derivation is whoever's drives it. @returns the key, if one is found */
function* unlocking(
  { header, slots, mode, hash }: Luks,
  region: Uint8Array,
  passphrase: Uint8Array,
): Generator<Derivation, Uint8Array | undefined, Uint8Array> {
  const { keyBytes, digest, digestSalt, digestIterations } = header;
  for (const slot of slots.filter(isActive)) {
    const own = yield [passphrase, slot.salt, slot.iterations, keyBytes, hash];
    const at = slot.keyMaterialOffset * CRYPT_SECTOR_BYTES;
    const material = region.slice(at, at + materialBytes(keyBytes));
    sectorCipher(mode, own).decrypt(material, 0);
    const key = merge(material, keyBytes, hash);
    const found = yield [key, digestSalt, digestIterations, digest.length, hash];
    if (timingSafeEqual(found, digest)) return key;
  }
  return undefined;
}

function wrong(path: string): never {
  throw new Failure('denied', `the passphrase does not open ${path}`, { wrongKeyFor: path });
}

/** Whole sectors of a key in stripes. */
function materialBytes(keyBytes: number): number {
  return Math.ceil((keyBytes * STRIPES) / CRYPT_SECTOR_BYTES) * CRYPT_SECTOR_BYTES;
}

/** What makes each bit of the next stripe depend on all of the last one. */
function diffuse(stripe: Uint8Array, hash: string): void {
  const length = digestBytes[hash] ?? 0;
  for (let at = 0; at < stripe.length; at += length) {
    const piece = stripe.subarray(at, at + length);
    const numbered = Buffer.alloc(4 + piece.length);
    numbered.writeUInt32BE(at / length);
    numbered.set(piece, 4);
    piece.set(digestOf(hash, numbered, 'buffer').subarray(0, piece.length));
  }
}

function orInto(into: Uint8Array, from: Uint8Array): void {
  for (let at = 0; at < into.length; at++) into[at] = (into[at] ?? 0) ^ (from[at] ?? 0);
}

function merge(material: Uint8Array, keyBytes: number, hash: string): Uint8Array {
  const key = new Uint8Array(keyBytes);
  for (let stripe = 0; stripe < STRIPES; stripe++) {
    orInto(key, material.subarray(stripe * keyBytes, (stripe + 1) * keyBytes));
    if (stripe < STRIPES - 1) diffuse(key, hash);
  }
  return key;
}

function split(key: Uint8Array, hash: string): Uint8Array {
  const { length } = key;
  const material = new Uint8Array(materialBytes(length));
  material.set(randomBytes(length * (STRIPES - 1)));
  const last = new Uint8Array(length);
  for (let stripe = 0; stripe < STRIPES - 1; stripe++) {
    orInto(last, material.subarray(stripe * length, (stripe + 1) * length));
    diffuse(last, hash);
  }
  orInto(last, key);
  material.set(last, length * (STRIPES - 1));
  return material;
}

const NEW_MODE = 'xts-plain64';
const NEW_HASH = 'sha256';
const NEW_KEY_BYTES = 64;

const NEW_SLOT_SECTORS =
  Math.ceil(materialBytes(NEW_KEY_BYTES) / CRYPT_SECTOR_BYTES / ALIGN_SECTORS) * ALIGN_SECTORS;
const NEW_PAYLOAD_OFFSET = ALIGN_SECTORS + SLOTS * NEW_SLOT_SECTORS;

/** How long what `createLuks` makes is. */
export const NEW_LUKS_BYTES = NEW_PAYLOAD_OFFSET * CRYPT_SECTOR_BYTES;

/**
 * A new header with one passphrase, and its key material: AES-256-XTS.
 * @param iterMs how long trying a passphrase is to take on this machine
 */
export function createLuks(passphrase: Uint8Array, iterMs: number): Uint8Array {
  const region = new Uint8Array(NEW_LUKS_BYTES);
  const key = randomBytes(NEW_KEY_BYTES);
  const iterations = roundsFor(iterMs);
  const digestSalt = randomBytes(32);
  const digestIterations = Math.max(1000, Math.floor(iterations / 8));
  LuksHeader.put(region, {
    magic: MAGIC,
    version: 1,
    cipherName: Buffer.from('aes'),
    cipherMode: Buffer.from(NEW_MODE),
    hashSpec: Buffer.from(NEW_HASH),
    payloadOffset: NEW_PAYLOAD_OFFSET,
    keyBytes: NEW_KEY_BYTES,
    digest: pbkdf2Sync(key, digestSalt, digestIterations, 20, NEW_HASH),
    digestSalt,
    digestIterations,
    uuid: Buffer.from(randomUUID()),
  });
  const salt = randomBytes(32);
  for (let slot = 0; slot < SLOTS; slot++) {
    const keyMaterialOffset = ALIGN_SECTORS + slot * NEW_SLOT_SECTORS;
    const isFirst = slot === 0;
    const own = isFirst ? { active: ACTIVE, iterations, salt } : { active: INACTIVE };
    const values = { ...own, keyMaterialOffset, stripes: STRIPES };
    LuksSlot.put(region, values, LuksHeader.size + slot * LuksSlot.size);
  }
  const material = split(key, NEW_HASH);
  const own = pbkdf2Sync(passphrase, salt, iterations, NEW_KEY_BYTES, NEW_HASH);
  sectorCipher(NEW_MODE, own).encrypt(material, 0);
  region.set(material, ALIGN_SECTORS * CRYPT_SECTOR_BYTES);
  return region;
}

function roundsFor(iterMs: number): number {
  const tried = 20_000;
  const begin = performance.now();
  pbkdf2Sync('passphrase', 'salt', tried, NEW_KEY_BYTES, NEW_HASH);
  const rounds = Math.floor((tried * iterMs) / (performance.now() - begin));
  return Math.max(1000, Math.min(MOST_ITERATIONS, rounds));
}

/** Text in a field, up to its first zero. */
export function textOf(field: Uint8Array): string {
  const end = field.indexOf(0);
  return Buffer.from(field.subarray(0, end < 0 ? undefined : end)).toString('latin1');
}
