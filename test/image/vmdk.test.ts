/** VMDKs of every kind pass what every format must pass. */
import { imageSuite } from '../suites/image-suite.ts';

const grain = 65_536;
const small = { format: 'vmdk', sizeBytes: 4 * grain + 512, edges: [grain, 2 * grain] } as const;

imageSuite({ ...small, name: 'vmdk', children: {}, resizes: 'any' });

imageSuite(
  {
    ...small,
    name: 'vmdk with zero grains',
    options: { zeroed_grain: 'on' },
    children: { zeroed_grain: 'on' },
  },
  1000,
);

imageSuite(
  {
    ...small,
    name: 'vmdk, a descriptor and a file of grains',
    options: { subformat: 'twoGbMaxExtentSparse' },
    children: { subformat: 'twoGbMaxExtentSparse' },
  },
  500,
);

imageSuite(
  {
    name: 'vmdk, a descriptor and a flat file',
    format: 'vmdk',
    options: { subformat: 'monolithicFlat' },
    sizeBytes: 1 << 20,
    edges: [4096],
    resizes: 'any',
  },
  500,
);
