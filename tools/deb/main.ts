/**
 * `npm run deb`: dist/vbdkit_VERSION_amd64.deb, the same bytes each time for one commit: every time in it
 * is SOURCE_DATE_EPOCH, or that of the last commit. lintian has a look at it where it is installed.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { home } from '../../src/sys/home.ts';
import { epochOfBuild } from '../epoch.ts';
import { buildPackage } from './build.ts';

const path = await buildPackage({ folder: join(home, 'dist'), epoch: epochOfBuild() });
const looked = spawnSync('lintian', ['--fail-on', 'error', path], { stdio: 'inherit' });
if (looked.error !== undefined)
  process.stderr.write('lintian is not installed: nobody has looked\n');
process.exitCode = looked.status ?? 0;
process.stdout.write(`${path}\n`);
