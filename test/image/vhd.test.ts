/** VHD passes what every format must pass, in each of its layouts. */
import { imageSuite } from '../suites/image-suite.ts';

const block = 64 * 1024;

imageSuite({
  name: 'vhd, fixed',
  format: 'vhd',
  options: { subformat: 'fixed', force_size: 'on' },
  sizeBytes: 1 << 20,
  edges: [4096, 1 << 19],
  resizes: 'any',
});

imageSuite({
  name: 'vhd, dynamic',
  format: 'vhd',
  options: { block_size: '64K', force_size: 'on' },
  children: { block_size: '64K' },
  sizeBytes: 12 * block + 2048,
  edges: [block, 2 * block, 11 * block, 12 * block],
  resizes: 'any',
});
