/** The format of Hyper-V since 2012, and of its successors in Azure Stack. */
import type { Format } from '../formats.ts';
import { createOptions, createVhdx } from './create.ts';
import { openVhdx } from './open.ts';

export const vhdx: Format = {
  name: 'vhdx',
  canWrite: true,
  hasParents: true,
  options: createOptions,
  open: openVhdx,
  create: createVhdx,
};
