/**
 * `npm run tarball`: dist/vbdkit-VERSION-linux-x64.tar.gz, the same bytes each time for one commit, as
 * `npm run deb` is.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { home } from '../../src/sys/home.ts';
import { epochOfBuild } from '../epoch.ts';
import { buildTarball } from './build.ts';

const folder = join(home, 'dist');
mkdirSync(folder, { recursive: true });
const path = await buildTarball({ folder, epoch: epochOfBuild(), compress: true });
process.stdout.write(`${path}\n`);
