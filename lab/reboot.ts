/** A guest that reboots, whoever attaches its disk. */
import assert from 'node:assert/strict';
import type { Guest } from './guest.ts';
import type { Lab } from './step.ts';

/** A guest with that disk writes a note, reboots, and finds it; the guest as it runs then. */
export async function rebootedGuest(lab: Lab, disk: string): Promise<Guest> {
  const guest = await lab.guests.create({ disks: [disk] });
  await guest.awaitDisk('xvda');
  await guest.mount('xvda');
  await guest.sh('echo still here > /mnt/note; umount /mnt');
  const before = guest.domid;
  await guest.end('reboot');
  await guest.ready();
  assert.notEqual(guest.domid, before);
  await guest.awaitDisk('xvda');
  await guest.mount('xvda');
  assert.equal(await guest.sh('cat /mnt/note; umount /mnt'), 'still here');
  return guest;
}
