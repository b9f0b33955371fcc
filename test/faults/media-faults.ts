/** Planted faults of media that change, and of a guest that goes on in another domain. */
import type { Fault } from './faults.ts';

const media = { caughtBy: 'test/tap/media.test.ts', needsLoop: true };
const drives = {
  caughtBy: 'test/daemon/drives.test.ts',
  only: 'a medium is taken out',
  needsLoop: true,
};

export const mediaFaults: readonly Fault[] = [
  {
    ...media,
    name: 'medium-gone-under-a-request',
    breaks: 'a medium goes when what was asked of it is answered',
    file: 'src/tap/disks.ts',
    find: '  await quieten(disk);\n  if (table.disks.get(name) !== disk) {',
    plant: '  if (table.disks.get(name) !== disk) {',
  },
  {
    ...media,
    name: 'ring-begun-anew-with-a-medium',
    breaks: 'a guest whose medium changes goes on where its ring is',
    file: 'src/tap/disks.ts',
    find: '{ ...connected, takeUp: true }',
    plant: '{ ...connected, takeUp: false }',
  },
  {
    ...drives,
    name: 'size-of-a-medium-not-told',
    breaks: 'a guest learns how large the medium in its drive is',
    file: 'src/backend/ring-disk.ts',
    find: 'await changeMedium(world, record, vms);\n      return tellSize(world, record);',
    plant: 'return changeMedium(world, record, vms);',
  },
  {
    ...drives,
    name: 'ejected-medium-still-held',
    breaks: 'what was taken out of a drive may be anybody’s',
    file: 'src/backend/ring-image.ts',
    find: 'world.holdings.remove(record.path);\n  try {\n    const found = await findPlace(world, record, vms);\n    ring.image',
    plant: 'try {\n    const found = await findPlace(world, record, vms);\n    ring.image',
  },
  {
    ...drives,
    name: 'unreadable-medium-left-half-in',
    breaks: 'a drive whose new medium cannot be had is empty',
    file: 'src/backend/ring-image.ts',
    find: 'ring.image = await tap.change(name, undefined);',
    plant: '',
  },
  {
    name: 'old-half-not-quieted',
    breaks: 'a guest that goes on in another domain is not served in the old one, too',
    file: 'src/backend/ring-disk.ts',
    find: 'if (!step.takeUp) await quietTwins(world, record, vms);',
    plant: '',
    caughtBy: 'test/daemon/ring-lives.test.ts',
    only: 'migrates within the host goes on with its raw',
    needsLoop: true,
  },
];
