/** Loop devices for tests made with losetup: bound, not claimed, so that mount and mkfs may have them. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { openFd, O } from '../../src/sys/fd.ts';
import type { DeviceNumber } from '../../src/sys/device-number.ts';
import { fileFacts } from '../../src/sys/file.ts';

export interface TestLoop extends Disposable {
  readonly path: string;
  readonly device: DeviceNumber;
}

/** Runs a program and returns what it prints; its complaints go into the error it throws. */
export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Binds a file or device to a free loop device until the result is disposed of. */
export function losetup(file: string, ...flags: string[]): TestLoop {
  const path = run('losetup', '--find', '--show', ...flags, file).trim();
  return {
    path,
    device: numberOf(path),
    [Symbol.dispose]: () => void run('losetup', '--detach', path),
  };
}

/** The number of the device that a path stands for. */
export function numberOf(path: string): DeviceNumber {
  using fd = openFd(path, O.PATH);
  return fileFacts(fd.number).represents;
}

/** Loop devices bound to files below `dir`, as sysfs tells: number → file. */
export function boundLoops(dir: string): Map<number, string> {
  const bound = new Map<number, string>();
  for (const name of readdirSync('/sys/block')) {
    const number = /^loop(\d+)$/.exec(name)?.[1];
    if (number === undefined) continue;
    try {
      const file = readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim();
      if (file.startsWith(dir)) bound.set(Number(number), file.replace(/ \(deleted\)$/, ''));
    } catch {
      // Not bound.
    }
  }
  return bound;
}
