/** The steps of `test --ci`: each promise once, in some minutes. */

export const ciSteps: readonly string[] = [
  'door: a raw file reaches a guest, and the guest its file',
  'door: a disk given read-only stays as it is',
  'door: a block device reaches a guest as it is',
  'door: 4 disks of one guest, each with its own bytes',
  'door: a disk comes and goes while the guest does I/O on another',
  'door: vbdd is killed and comes back under a running guest',
  'door: what vbd attaches xl lists and detaches, and the reverse',
  "door-disk: a guest's flush is a sync of its file",
  "door-disk: a guest's discard is a hole in its file",
  'door-life: an xl that is killed half-way through a create leaves nothing once destroyed',
  'door-life: a guest is saved and restored in the middle of its I/O',
  'door-sharing: two guests do not write one file, whatever path leads to it',
  'door-sharing: what dom0 has mounted no guest gets, and dom0 mounts nothing that a guest has',
  'door-sharing: a guest that the official script attached before keeps its file to itself',
  'smoke: dom0 runs on Xen, with the store that was asked for',
  'smoke: vbdkit is in dom0, with its own Node',
  'smoke: a guest without disks starts, answers and powers off',
];
