/** Device numbers: major and minor packed into one number the way Linux gives them to user space. */

export interface DeviceNumber {
  readonly major: number;
  readonly minor: number;
}

/** Unpacks `st_dev`, `st_rdev` or `lo_device` (glibc's and the kernel's encoding are the same here). */
export function unpackDevice(packed: bigint): DeviceNumber {
  return {
    major: Number(((packed >> 8n) & 0xfffn) | ((packed >> 32n) & 0xfffff000n)),
    minor: Number((packed & 0xffn) | ((packed >> 12n) & 0xffffff00n)),
  };
}

/** `major:minor` in decimal, as sysfs and mountinfo write it. */
export function formatDevice(device: DeviceNumber): string {
  return `${device.major}:${device.minor}`;
}

/** Reads `major:minor` in decimal; undefined when it is not that. */
export function parseDevice(text: string): DeviceNumber | undefined {
  const match = /^(\d+):(\d+)$/.exec(text.trim());
  return match === null ? undefined : { major: Number(match[1]), minor: Number(match[2]) };
}
