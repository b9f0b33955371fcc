/** Whether libxl finds vbdkit where it looks for its hotplug scripts. */
import { Failure } from '../../base/failure.ts';
import { changesToSetUp, placesByDefault } from '../script-place.ts';
import { type Finding, ok, warning } from './finding.ts';

/** Asks dpkg-divert what `vbd setup` would still do. */
export function placeFindings(scriptDir: string): Finding[] {
  try {
    const changes = changesToSetUp({ ...placesByDefault(), scriptDir });
    if (changes.length === 0) return [ok('scripts', 'libxl runs vbdkit for disks of kind vbd')];
    const says = 'libxl runs its own block script: only disks with script=block-vbd come here';
    return [warning('scripts', says, 'vbd setup')];
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    const [says = '', advice = ''] = thrown.message.split(' — ');
    return [warning('scripts', says, advice)];
  }
}
