/** The format of Virtual PC, Hyper-V before VHDX, Azure and Xen's tapdisk. */
import type { Format } from '../formats.ts';
import { createOptions, createVhd } from './create.ts';
import { openVhd } from './open.ts';

export const vhd: Format = {
  name: 'vhd',
  canWrite: true,
  hasParents: true,
  options: createOptions,
  open: openVhd,
  create: createVhd,
};
