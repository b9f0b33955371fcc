/** Raw images pass what every format must pass, and keep what only they have: holes, odd sizes, devices. */
import { imageSuite } from '../suites/image-suite.ts';

imageSuite({
  name: 'raw',
  format: 'raw',
  sizeBytes: 1 << 20,
  edges: [4096, 65_536, 1 << 19],
  resizes: 'any',
});
