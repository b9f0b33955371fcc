/** Encrypted qcow2 images pass what every format must pass. */
import { imageSuite } from '../suites/image-suite.ts';

const fast = { 'encrypt.format': 'luks', 'encrypt.iter-time': '1' };

imageSuite(
  {
    name: 'qcow2 with LUKS',
    format: 'qcow2',
    options: { ...fast, cluster_size: '4k' },
    sizeBytes: 8 * 4096 + 512,
    edges: [4096, 8192],
    children: fast,
    passphrase: 'a passphrase',
  },
  1000,
);
