/** VHD passes what every format must pass, in each of its layouts. */
import { imageSuite } from '../suites/image-suite.ts';

const block = 64 * 1024;
const dynamic = {
  format: 'vhd',
  sizeBytes: 12 * block + 2048,
  edges: [block, 2 * block, 11 * block, 12 * block],
  resizes: 'any',
} as const;

imageSuite(
  {
    name: 'vhd, fixed',
    format: 'vhd',
    options: { subformat: 'fixed', force_size: 'on' },
    sizeBytes: 1 << 20,
    edges: [4096, 1 << 19],
    resizes: 'any',
  },
  300,
);

imageSuite(
  {
    ...dynamic,
    name: 'vhd, dynamic',
    options: { block_size: '64K', force_size: 'on' },
    children: { block_size: '64K' },
  },
  600,
);

imageSuite(
  {
    ...dynamic,
    name: 'vhd, with a batmap, and children of smaller blocks',
    options: { block_size: '64K', batmap: 'on', force_size: 'on' },
    children: { block_size: '16K', batmap: 'on' },
  },
  600,
);
