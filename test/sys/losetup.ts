/** Loop devices for tests made with losetup: bound, not claimed, so that mount and mkfs may have them. */
import { execFileSync } from 'node:child_process';
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
