/** Encrypted images that qemu makes. */

/** Runs what makes one: on a machine that does much else qemu may fail to find out how fast it is. */
export function tryToEncrypt(run: () => void): void {
  for (let tries = 0; ; tries++) {
    try {
      return run();
    } catch (thrown) {
      if (tries === 4 || !String(thrown).includes('accurate CPU usage')) throw thrown;
    }
  }
}
