/** A file of encrypted sectors as the bytes that they hold. The engine moves those only through here. */
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { CRYPT_SECTOR_BYTES as SECTOR, type SectorCipher } from './sector-cipher.ts';

const PIECE_BYTES = 2 ** 18;

/**
 * The decrypted bytes of a file that others own, and close. Space that was never written holds
 * nothing that could be known beforehand, and is never a hole.
 * @param cipher undefined while nobody has given the passphrase: then nothing is read or written
 */
export function cryptBytes(file: Bytes, cipher: SectorCipher | undefined): Bytes {
  const room = new Uint8Array(PIECE_BYTES);
  const known = (): SectorCipher => cipher ?? failLocked(file.path);
  /** Whole sectors that a range touches, decrypted, at most a piece of them. */
  const load = (at: number, lengthBytes: number): { from: number; view: Uint8Array } => {
    const from = at - (at % SECTOR);
    const end = Math.min(from + PIECE_BYTES, Math.ceil((at + lengthBytes) / SECTOR) * SECTOR);
    const view = room.subarray(0, end - from);
    view.fill(0, file.read(view, from));
    known().decrypt(view, from / SECTOR);
    return { from, view };
  };
  const store = (view: Uint8Array, at: number): void => {
    known().encrypt(view, at / SECTOR);
    file.write(view, at);
  };
  /** Writes a range piece by piece; `fill` puts its bytes from `done` on into a view of a piece. */
  const change = (
    at: number,
    lengthBytes: number,
    fill: (view: Uint8Array, done: number) => void,
  ): void => {
    for (let done = 0; done < lengthBytes;) {
      const skip = (at + done) % SECTOR;
      const count = Math.min(lengthBytes - done, PIECE_BYTES - skip);
      const isWhole = skip === 0 && count % SECTOR === 0;
      const from = at + done - skip;
      const view = isWhole ? room.subarray(0, count) : load(at + done, count).view;
      fill(view.subarray(skip, skip + count), done);
      store(view, from);
      done += count;
    }
  };
  return {
    path: file.path,
    fd: undefined,
    openFd: file.fd,
    writable: file.writable,
    alignmentBytes: 1,
    sizeBytes: () => file.sizeBytes(),
    read(into, at) {
      const length = Math.max(0, Math.min(into.length, file.sizeBytes() - at));
      for (let done = 0; done < length;) {
        const { from, view } = load(at + done, length - done);
        const piece = view.subarray(at + done - from).subarray(0, length - done);
        into.set(piece, done);
        done += piece.length;
      }
      return length;
    },
    write: (bytes, at) =>
      change(at, bytes.length, (view, done) => view.set(bytes.subarray(done, done + view.length))),
    zero: (at, lengthBytes) => change(at, lengthBytes, (view) => view.fill(0)),
    discard: () => {},
    resize: (sizeBytes) => file.resize(sizeBytes),
    flush: () => file.flush(),
    nextStored(at) {
      const end = file.sizeBytes();
      return at < end ? { at, end } : undefined;
    },
    [Symbol.dispose]() {},
  };
}

function failLocked(path: string): never {
  throw new Failure(
    'denied',
    `${path} is encrypted — give its passphrase with --key-file or --key-fd`,
  );
}
