/** Puts vbdkit into a booted host, and tells whether a step has left the host as it was. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { readFile } from 'node:fs/promises';
import { blkbackOf } from './blkback.ts';
import { dom0Of } from './dom0.ts';
import { guestsOf } from './guests.ts';
import type { Machine } from './machine.ts';
import { outside } from './outside.ts';
import { asRootCompiled, carried, makePrograms } from './programs.ts';
import { Skipped, type Lab } from './step.ts';
import { xenstoreOf } from './xenstore.ts';

/** The API of one step on this machine. */
export function labOf(machine: Machine): Lab {
  const dom0 = dom0Of(machine);
  return {
    config: machine.config,
    dom0,
    guests: guestsOf(dom0, machine),
    xenstore: xenstoreOf(dom0, machine.config),
    blkback: blkbackOf(dom0),
    skip: (why) => {
      throw new Skipped(why);
    },
  };
}

/** Makes /opt/vbdkit in dom0 what the working tree would be shipped as. */
export async function carryIn(machine: Machine): Promise<void> {
  const programs = join(machine.folder, 'programs');
  await makePrograms(programs);
  const archive = join(machine.share, 'tree.tar');
  const tar = ['--sort=name', '--mtime=@0', asRootCompiled, '-cf', archive, '-C'];
  await outside('tar', [...tar, programs, ...carried]);
  const sum = createHash('sha256')
    .update(await readFile(archive))
    .digest('hex');
  await dom0Of(machine).run(
    `cd /opt/vbdkit; [ "$(cat .sum 2> /dev/null)" = ${sum} ] && exit
    rm -rf ${carried.join(' ')}; tar -xf /share/tree.tar && sync && echo ${sum} > .sum`,
  );
}

/** Tells a guest, a loop device or a backend that is there, one a line. */
const look = `
  xl list | while read -r name _; do [[ $name == @(Name|Domain-0) ]] || echo "guest $name"; done
  for file in /sys/block/loop*/loop/backing_file; do
    [ -e "$file" ] && echo "loop device $file $(< "$file")"
  done
  xenstore-ls -f /local/domain/0/backend 2> /dev/null |
    while read -r path _; do [[ $path != */@(vbd|vbd3|qdisk)/*/frontend ]] || echo "backend $path"; done`;

/** What a step should have taken away and did not; when that is nothing, its files are removed. */
export async function leftOvers(machine: Machine): Promise<string[]> {
  const text = await dom0Of(machine).run(
    `left=$(${look}); [ -n "$left" ] && echo "$left" && exit; rm -rf /d /root/g*.cfg; mkdir /d`,
  );
  return text.split('\n').filter((line) => line !== '');
}

/** Takes away whatever is there, so that the next step starts clean. */
export async function tidyUp(machine: Machine): Promise<void> {
  await dom0Of(machine).run(
    `for name in $(xl list | sed -e 1,2d -e 's/ .*//'); do xl destroy "$name"; done
    for vdev in $(xenstore-list /local/domain/0/backend/vbd/0 2> /dev/null); do
      xl block-detach --force 0 "$vdev"
    done
    losetup --detach-all; rm -rf /d /root/g*.cfg; mkdir /d`,
  );
}
