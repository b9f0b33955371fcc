/** qcow2 images of every shape pass what every format must pass. */
import { imageSuite } from '../suites/image-suite.ts';

const cluster = 65_536;
const small = {
  format: 'qcow2',
  sizeBytes: 4 * cluster + 512,
  edges: [cluster, 2 * cluster],
} as const;

imageSuite({ ...small, name: 'qcow2', children: {}, resizes: 'any' });

imageSuite(
  {
    ...small,
    name: 'qcow2 of version 2',
    options: { compat: '0.10' },
    children: { compat: '0.10' },
  },
  1000,
);

imageSuite(
  {
    ...small,
    name: 'qcow2 with subclusters',
    options: { extended_l2: 'on', cluster_size: '16k' },
    edges: [512, 16_384, 16_384 + 512],
    children: { extended_l2: 'on' },
  },
  1000,
);

// A table of the second level covers 32 KiB, a refcount block 128 KiB, the refcount table 8 MiB.
imageSuite(
  {
    name: 'qcow2 of small clusters',
    format: 'qcow2',
    options: { cluster_size: '512' },
    sizeBytes: 256 * 1024 + 512,
    edges: [512, 32_768, 65_536, 131_072],
    children: { cluster_size: '4k', refcount_bits: '1' },
    resizes: 'any',
  },
  1000,
);
