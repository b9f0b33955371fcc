/** All that one suite's host is made of. */
import { bootFiles } from './boot-files.ts';
import { dom0Image } from './dom0-image.ts';
import { packagesImage } from './packages-image.ts';
import { dom0Root } from './root.ts';
import type { SuiteName } from './suites.ts';

export interface Images {
  /** Holds `xen`, `vmlinux` and the initial ram disks. */
  readonly boot: string;
  readonly dom0: string;
  readonly packages: string;
}

/** Builds what is missing. */
export async function images(suite: SuiteName): Promise<Images> {
  const root = await dom0Root(suite);
  const boot = await bootFiles(suite, root);
  return { boot, dom0: await dom0Image(suite, root, boot), packages: await packagesImage() };
}
