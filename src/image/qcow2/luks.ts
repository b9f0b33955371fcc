/** LUKS in a qcow2 image: its header is in the file, and each sector is known by its place in the file. */
import { Failure } from '../../base/failure.ts';
import type { Bytes } from '../../bytes/bytes.ts';
import { isActive, keyName, type Luks, readLuks, textOf, unlock } from '../crypt/luks.ts';
import { type SectorCipher, sectorCipher } from '../crypt/sector-cipher.ts';
import type { OpenContext } from '../formats.ts';
import { type Head, readAt } from './header.ts';

export interface OpenLuks {
  readonly luks: Luks;
  /** Undefined while the image is locked. */
  readonly cipher: SectorCipher | undefined;
}

/**
 * Opens what an image is encrypted by; undefined when it is not.
 * @throws Failure denied | corrupt | unsupported
 */
export function openLuks(
  file: Bytes,
  { luks: place }: Head,
  { passphrase, keys, locked, onLocked }: OpenContext,
): OpenLuks | undefined {
  if (place === undefined) return undefined;
  const { path } = file;
  const region = readAt(file, place.headerAt, place.headerBytes);
  const luks = readLuks(region, path);
  const known = keys?.get(keyName(luks));
  const key = known ?? (passphrase && unlock(luks, { region, path }, passphrase));
  if (key !== undefined) return { luks, cipher: sectorCipher(luks.mode, key) };
  if (locked === true) {
    onLocked?.({ region, path });
    return { luks, cipher: undefined };
  }
  const sentence = `${path} is encrypted — give its passphrase with --key-file or --key-fd`;
  throw new Failure('denied', sentence, { noKeyFor: path });
}

/** As qemu-img shows it. */
export function luksInfo({ header, slots, mode, hash }: Luks): object {
  const [chain = '', vectors = ''] = mode.split('-');
  const [generator, vectorHash] = vectors.split(':');
  const aesBytes = chain === 'xts' ? header.keyBytes / 2 : header.keyBytes;
  return {
    'ivgen-alg': generator,
    ...(vectorHash === undefined ? {} : { 'ivgen-hash-alg': vectorHash }),
    'hash-alg': hash,
    'cipher-alg': `aes-${aesBytes * 8}`,
    uuid: textOf(header.uuid),
    format: 'luks',
    'cipher-mode': chain,
    slots: slots.map((slot) =>
      isActive(slot)
        ? {
            active: true,
            iters: slot.iterations,
            'key-offset': slot.keyMaterialOffset * 512,
            stripes: slot.stripes,
          }
        : { active: false, 'key-offset': slot.keyMaterialOffset * 512 },
    ),
    'payload-offset': header.payloadOffset * 512,
    'master-key-iters': header.digestIterations,
  };
}
