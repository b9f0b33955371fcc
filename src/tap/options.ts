/** The options of vbd-tap, which reads no configuration. */
import type { ProgramOptions } from '../base/options.ts';

export const tapOptions = {
  socket: {
    value: 'PATH',
    brief: 'where vbdd asks (/run/vbdkit/tap.sock); what a successor needs is kept beside',
  },
  workers: {
    value: 'N',
    brief: 'threads that serve disks; one for each processor, four at most, unless said',
  },
  cache: {
    value: 'SIZE',
    brief: 'what cached metadata of images may take, for each of them; 32M unless said',
  },
  guests: { value: 'DIR', brief: 'serves guests of an embedded host in place of Xen’s' },
  background: {
    brief: 'returns once it serves, in a session of its own; tap.pid beside the socket names it',
  },
} as const satisfies ProgramOptions;
