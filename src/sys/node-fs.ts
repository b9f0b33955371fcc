/**
 * Node's synchronous file calls, for what a short command loads: importing `node:fs` takes its
 * promises and streams along, a tenth of the whole run.
 */
const fs = process.getBuiltinModule('node:fs');

export const { fchmodSync, fchownSync, fstatSync, readlinkSync, realpathSync } = fs;
export const { readFileSync, renameSync, rmSync, statSync } = fs;
