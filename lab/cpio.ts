/** Initial ram disks: archives in the newc form of cpio(5), compressed with gzip. */
import { gzipSync } from 'node:zlib';

export interface Entry {
  readonly path: string;
  readonly mode: number;
  readonly body?: Uint8Array | string;
}

export function file(path: string, body: Uint8Array | string, mode = 0o644): Entry {
  return { path, mode: 0o100000 | mode, body };
}

export function link(path: string, target: string): Entry {
  return { path, mode: 0o120777, body: target };
}

export function folder(path: string): Entry {
  return { path, mode: 0o040755 };
}

function padded(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}

/** One header: the magic number and thirteen fields of eight hexadecimal digits, then the name. */
function record(entry: Entry, number: number): Buffer {
  const body = Buffer.from(entry.body ?? '');
  const name = Buffer.from(`${entry.path}\0`);
  const fields = [number, entry.mode, 0, 0, 1, 0, body.length, 0, 0, 0, 0, name.length, 0];
  const header = `070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}`;
  return Buffer.concat([padded(Buffer.concat([Buffer.from(header), name])), padded(body)]);
}

/** The archive of these entries, owned by root; a folder must come before what is in it. */
export function initramfs(entries: readonly Entry[]): Buffer {
  const all = [...entries, { path: 'TRAILER!!!', mode: 0 }];
  return gzipSync(Buffer.concat(all.map((entry, index) => record(entry, index))), { level: 1 });
}
