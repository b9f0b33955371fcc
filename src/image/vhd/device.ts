/** A VHD on a block device keeps its footer at the end of the device, which does not grow. */
import type { Bytes } from '../../bytes/bytes.ts';
import { fileFacts } from '../../sys/file.ts';

/** Whether the bytes are those of a block device. */
export function isDevice(bytes: Bytes): boolean {
  return bytes.fd !== undefined && fileFacts(bytes.fd).kind === 'block';
}
