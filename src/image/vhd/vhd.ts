/** The format of Virtual PC, Hyper-V before VHDX, Azure and Xen's tapdisk. */
import type { Format } from '../formats.ts';
import { createOptions, createVhd } from './create.ts';
import { looksLikeVhd } from './footer.ts';
import { openVhd } from './open.ts';

export const vhd: Format = {
  name: 'vhd',
  canWrite: true,
  hasParents: true,
  options: createOptions,
  recognises: looksLikeVhd,
  open: openVhd,
  create: createVhd,
};
