/** VHDX passes what every format must pass, in each of its layouts. */
import { imageSuite } from '../suites/image-suite.ts';

const MiB = 2 ** 20;
const shape = {
  format: 'vhdx',
  sizeBytes: 3 * MiB + 8192,
  edges: [MiB, 2 * MiB, 3 * MiB],
} as const;

// One that is fixed gets another block table whenever it grows.
imageSuite(
  { ...shape, name: 'vhdx, fixed', options: { subformat: 'fixed' }, resizes: 'grow' },
  700,
);

imageSuite(
  {
    ...shape,
    name: 'vhdx, dynamic',
    options: { block_size: '1M' },
    resizes: 'any',
  },
  700,
);

imageSuite(
  {
    ...shape,
    name: 'vhdx, differencing',
    options: { block_size: '1M' },
    children: { block_size: '2M' },
    resizes: 'grow',
  },
  700,
);

imageSuite(
  {
    ...shape,
    name: 'vhdx, sectors of 4096 bytes',
    options: { block_size: '1M', logical_sector_size: '4096' },
    children: { block_size: '1M', logical_sector_size: '4096' },
  },
  700,
);
