/** What a check of `vbd doctor` comes to. */
export interface Finding {
  /** A word for it, the same on every host: `loop`, `vbdd`. */
  readonly name: string;
  /** `warning`: some disks will not work, or something is left over; `fault`: none will. */
  readonly verdict: 'ok' | 'warning' | 'fault';
  /** What was found, one sentence. */
  readonly says: string;
  /** What to do about it; null where nothing is to be done. */
  readonly advice: string | null;
}

/** The folders that checks look in, each as the kernel has it unless a test says otherwise. */
export interface HostFolders {
  readonly proc: string;
  readonly sys: string;
  readonly dev: string;
}

export const hostFolders: HostFolders = { proc: '/proc', sys: '/sys', dev: '/dev' };

/** A check that found nothing to be done. */
export function ok(name: string, says: string): Finding {
  return { name, verdict: 'ok', says, advice: null };
}

/** A check after which some disks do not work, or something is left over. */
export function warning(name: string, says: string, advice: string): Finding {
  return { name, verdict: 'warning', says, advice };
}

/** A check after which no guest gets a disk. */
export function fault(name: string, says: string, advice: string): Finding {
  return { name, verdict: 'fault', says, advice };
}
