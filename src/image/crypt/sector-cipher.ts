/**
 * AES over sectors of 512 bytes, in the modes that LUKS names. node:crypto does the AES: a cipher
 * made for each sector costs 20 times what its bytes do, so one that knows no mode (ECB) is made
 * for a key, and what a mode adds to that, exclusive ors with numbers of the sector, is here.
 */
import { type Cipheriv, createCipheriv, createDecipheriv, createHash } from 'node:crypto';
import { Failure } from '../../base/failure.ts';

export const CRYPT_SECTOR_BYTES = 512;

/** Encrypts and decrypts whole sectors where they are. */
export interface SectorCipher {
  /** @param sector the number of the first one */
  encrypt(view: Uint8Array, sector: number): void;
  decrypt(view: Uint8Array, sector: number): void;
}

const BLOCK_BYTES = 16;
const SECTOR_BLOCKS = CRYPT_SECTOR_BYTES / BLOCK_BYTES;
const BATCH_SECTORS = 128;
const BATCH_BYTES = BATCH_SECTORS * CRYPT_SECTOR_BYTES;

/** AES of whole blocks, each by itself: the same object again and again, for it keeps no state. */
function ecb(key: Uint8Array, decrypts = false): Cipheriv {
  const name = `aes-${key.length * 8}-ecb`;
  const made = decrypts ? createDecipheriv(name, key, null) : createCipheriv(name, key, null);
  return made.setAutoPadding(false);
}

/**
 * @param mode as LUKS names it: `xts-plain64`, `cbc-essiv:sha256`, …
 * @throws Failure unsupported
 */
export function sectorCipher(mode: string, key: Uint8Array): SectorCipher {
  const [, chain, vectors, hash] = /^(xts|cbc)-(plain|plain64|essiv):?(\w+)?$/.exec(mode) ?? [];
  const aesBytes = chain === 'xts' ? key.length / 2 : key.length;
  const isKnown = chain !== undefined && [16, 24, 32].includes(aesBytes);
  if (!isKnown || (vectors === 'essiv') !== (hash === 'sha256')) {
    throw new Failure('unsupported', `encryption by aes-${mode} is not known here`);
  }
  return inBatches(chain === 'xts' ? xts(key, vectors === 'plain') : cbc(key, vectors ?? ''));
}

/** Working memory: the sectors at hand, and what is exclusively ored to them. */
const work = new Uint8Array(BATCH_BYTES);
const words = new Uint32Array(work.buffer);
const masks = new Uint32Array(BATCH_BYTES / 4);

/** What happens to the sectors in `work`. */
interface BatchCipher {
  encrypt(sectors: number, first: number): void;
  decrypt(sectors: number, first: number): void;
}

function inBatches(cipher: BatchCipher): SectorCipher {
  const each = (view: Uint8Array, first: number, way: keyof BatchCipher): void => {
    for (let at = 0; at < view.length; at += BATCH_BYTES) {
      const piece = view.subarray(at, at + BATCH_BYTES);
      work.set(piece);
      cipher[way](piece.length / CRYPT_SECTOR_BYTES, first + at / CRYPT_SECTOR_BYTES);
      piece.set(work.subarray(0, piece.length));
    }
  };
  return {
    encrypt: (view, sector) => each(view, sector, 'encrypt'),
    decrypt: (view, sector) => each(view, sector, 'decrypt'),
  };
}

/** The numbers of sectors as blocks: little-endian, of 64 bits, or of 32. */
function numbersOf(sectors: number, first: number, isShort: boolean): Uint8Array {
  const view = new Uint32Array(sectors * 4);
  for (let index = 0; index < sectors; index++) {
    view[index * 4] = (first + index) % 2 ** 32;
    view[index * 4 + 1] = isShort ? 0 : Math.floor((first + index) / 2 ** 32);
  }
  return new Uint8Array(view.buffer);
}

/** IEEE 1619: two keys, of which the second makes a mask for each block out of the sector's number. */
function xts(key: Uint8Array, isShort: boolean): BatchCipher {
  const half = key.length / 2;
  const tweaks = ecb(key.subarray(half));
  const through = (cipher: Cipheriv, sectors: number, first: number): void => {
    const start = tweaks.update(numbersOf(sectors, first, isShort));
    for (let sector = 0; sector < sectors; sector++) putMasks(start, sector);
    const count = (sectors * CRYPT_SECTOR_BYTES) / 4;
    mask(count);
    work.set(cipher.update(work.subarray(0, count * 4)));
    mask(count);
  };
  const encryptor = ecb(key.subarray(0, half));
  const decryptor = ecb(key.subarray(0, half), true);
  return {
    encrypt: (sectors, first) => through(encryptor, sectors, first),
    decrypt: (sectors, first) => through(decryptor, sectors, first),
  };
}

/** A sector's masks: each is the one before times x in GF(2^128). */
function putMasks(start: Buffer, sector: number): void {
  const from = sector * BLOCK_BYTES;
  let a = start.readUInt32LE(from);
  let b = start.readUInt32LE(from + 4);
  let c = start.readUInt32LE(from + 8);
  let d = start.readUInt32LE(from + 12);
  const end = (sector + 1) * SECTOR_BLOCKS * 4;
  for (let at = sector * SECTOR_BLOCKS * 4; at < end; at += 4) {
    masks[at] = a;
    masks[at + 1] = b;
    masks[at + 2] = c;
    masks[at + 3] = d;
    const carry = d >>> 31;
    d = (d << 1) | (c >>> 31);
    c = (c << 1) | (b >>> 31);
    b = (b << 1) | (a >>> 31);
    a = (a << 1) ^ (carry === 1 ? 0x87 : 0);
  }
}

function mask(count: number): void {
  for (let at = 0; at < count; at++) words[at] = (words[at] ?? 0) ^ (masks[at] ?? 0);
}

/** Each block is ored with the encrypted one before it, the first of a sector with its vector. */
function cbc(key: Uint8Array, vectors: string): BatchCipher {
  const encryptor = ecb(key);
  const decryptor = ecb(key, true);
  const salted = vectors === 'essiv' ? ecb(createHash('sha256').update(key).digest()) : undefined;
  const vectorsOf = (sectors: number, first: number): Uint8Array => {
    const numbers = numbersOf(sectors, first, vectors === 'plain');
    return salted === undefined ? numbers : salted.update(numbers);
  };
  return {
    // Blocks of a sector follow from each other; sectors do not, and go together.
    encrypt(sectors, first) {
      let before = vectorsOf(sectors, first);
      const column = new Uint8Array(sectors * BLOCK_BYTES);
      for (let block = 0; block < SECTOR_BLOCKS; block++) {
        for (let at = 0; at < column.length; at++) {
          column[at] = (work[placeOf(at, block)] ?? 0) ^ (before[at] ?? 0);
        }
        before = encryptor.update(column);
        for (let at = 0; at < column.length; at++) work[placeOf(at, block)] = before[at] ?? 0;
      }
    },
    decrypt(sectors, first) {
      const vectors = vectorsOf(sectors, first);
      const packed = work.slice(0, sectors * CRYPT_SECTOR_BYTES);
      work.set(decryptor.update(packed));
      for (let at = 0; at < packed.length; at++) {
        const within = at % CRYPT_SECTOR_BYTES;
        const sector = (at - within) / CRYPT_SECTOR_BYTES;
        const before =
          within < BLOCK_BYTES ? vectors[sector * BLOCK_BYTES + within] : packed[at - BLOCK_BYTES];
        work[at] = (work[at] ?? 0) ^ (before ?? 0);
      }
    },
  };
}

/** Where byte `at` of a column of blocks is, one block of each sector. */
function placeOf(at: number, block: number): number {
  const within = at % BLOCK_BYTES;
  return ((at - within) / BLOCK_BYTES) * CRYPT_SECTOR_BYTES + block * BLOCK_BYTES + within;
}
