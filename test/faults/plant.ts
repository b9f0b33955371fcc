/**
 * Preloaded with `--import`: plants the fault that VBDKIT_FAULT names into the source file it is
 * for, as that file is loaded. The tree itself is never changed.
 */
import { registerHooks } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { faults } from './faults.ts';

const name = process.env['VBDKIT_FAULT'];
const fault = faults.find((fault) => fault.name === name);
if (name !== undefined && fault === undefined) throw new Error(`there is no planted fault ${name}`);

if (fault !== undefined) {
  const target = pathToFileURL(join(import.meta.dirname, '..', '..', fault.file)).href;
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context);
      if (url !== target) return loaded;
      const source = Buffer.from(loaded.source as Uint8Array).toString();
      const parts = source.split(fault.find);
      if (parts.length !== 2) {
        throw new Error(`${fault.file} has ${parts.length - 1} places for the fault ${fault.name}`);
      }
      return { ...loaded, source: parts.join(fault.plant) };
    },
  });
}
