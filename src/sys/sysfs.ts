/** Reading sysfs(5), where what is absent is nothing and whatever else goes wrong is an error. */
import { readdirSync, readFileSync } from 'node:fs';
import { type DeviceNumber, parseDevice } from './device-number.ts';

/** The names in a folder; none when it is not there. */
export function namesIn(folder: string): string[] {
  return present(() => readdirSync(folder)) ?? [];
}

/** A file's text without the space around it; undefined when it is not there. */
export function textOf(path: string): string | undefined {
  return present(() => readFileSync(path, 'utf8').trim());
}

/** The number of the block device that the folder describes. */
export function deviceIn(folder: string): DeviceNumber | undefined {
  const text = textOf(`${folder}/dev`);
  return text === undefined ? undefined : parseDevice(text);
}

/**
 * What `look` returns; undefined when it throws that the thing is not there (or no longer). Being
 * out of descriptors must not look like that.
 */
export function present<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch (thrown) {
    const { code = '' } = thrown as NodeJS.ErrnoException;
    if (['ENOENT', 'ENOTDIR', 'ENODEV', 'ENXIO'].includes(code)) return undefined;
    throw thrown;
  }
}
