/** The options of vbdd; each wins over the configuration's key of that name. */
import type { ProgramOptions } from '../base/options.ts';

export const vbddOptions = {
  config: { value: 'FILE', brief: 'configuration to read in place of /etc/xen/vbdkit.conf' },
  socket: { value: 'PATH', brief: 'where vbd asks; what the helper reads is kept beside' },
  store: { value: 'PATH', brief: 'xenstored’s unix socket, or /dev/xen/xenbus' },
  sysfs: { value: 'DIR', brief: 'where the kernel shows its devices' },
  tap: { value: 'PATH', brief: 'where vbd-tap is asked; empty: nowhere' },
  script: { value: 'NAME', multiple: true, brief: 'hotplug script whose place is taken' },
  xl: { value: 'auto|never', brief: 'whether disks are attached through xl, where that is' },
  'log-level': { value: 'LEVEL', brief: 'error, warning, notice, info or debug' },
  'grace-seconds': { value: 'N', brief: 'how long a dead guest’s toolstack has to clean up' },
} as const satisfies ProgramOptions;
