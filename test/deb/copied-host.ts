/** This machine once more: what is installed into the copy, or removed from it, is not so here. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { SkipOption } from '../peers.ts';

// A file system that keeps what is written apart; devices and processes are this machine's own.
const BEGIN = `
mount --make-rprivate /
mount -t tmpfs tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$DIR/upper",workdir="$DIR/work" "$DIR/root"
for each in dev proc sys; do mount --rbind "/$each" "$DIR/root/$each"; done
mount -t tmpfs tmpfs "$DIR/root/run"
mkdir -p "$DIR/root/mnt"
mount --bind "$GIVEN" "$DIR/root/mnt"
echo force-unsafe-io > "$DIR/root/etc/dpkg/dpkg.cfg.d/in-memory"
# Nobody reads the index of its manual, which dpkg would make each time.
rm -f "$DIR/root/var/lib/man-db/auto-update"
echo ready
exec sleep infinity
`;

export interface CopiedHost extends AsyncDisposable {
  /** Runs a command of sh there and returns what it printed. @throws Error with its stderr */
  run(command: string): string;
  /** Its exit code, and what it said on stderr. */
  try(command: string): { code: number | null; stderr: string };
}

/** Options for a test that needs a copy of this machine. */
export function needsCopiedHost(): SkipOption {
  if (process.getuid?.() !== 0) return { skip: 'needs root' };
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-overlay-'));
  const begin = BEGIN.replace('exec sleep infinity', '');
  const env = { ...process.env, DIR: dir, GIVEN: dir };
  const tried = spawnSync('unshare', ['--mount', 'sh', '-ec', begin], { env });
  rmSync(dir, { recursive: true });
  return { skip: tried.status === 0 ? false : 'this machine gives nobody an overlay' };
}

/** @param given a folder that the copy has at /mnt */
export async function copyHost(given: string): Promise<CopiedHost> {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-host-'));
  const child = spawn('unshare', ['--mount', 'sh', '-ec', BEGIN], {
    env: { ...process.env, DIR: dir, GIVEN: given },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await Promise.race([once(child.stdout, 'data'), failed(child)]);
  const words = (command: string): string[] => {
    const enter = ['--target', String(child.pid), '--mount'];
    const path = 'PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8';
    const clean = ['env', '--ignore-environment', ...path.split(' ')];
    return [...enter, 'chroot', join(dir, 'root'), ...clean, 'sh', '-ec', command];
  };
  return {
    run: (command) => execFileSync('nsenter', words(command), { encoding: 'utf8', stdio: 'pipe' }),
    try(command) {
      const { status, stderr } = spawnSync('nsenter', words(command), { encoding: 'utf8' });
      return { code: status, stderr };
    },
    async [Symbol.asyncDispose]() {
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
      rmSync(dir, { recursive: true });
    },
  };
}

async function failed(child: ChildProcess): Promise<never> {
  await once(child, 'exit');
  throw new Error('the copy of this machine could not be made');
}

/** Builds a package of scripts as xen-utils-common has them, each a file that says its version. */
export function buildScripts(folder: string, version: string): string {
  const root = mkdtempSync(join(tmpdir(), 'vbdkit-scripts-'));
  mkdirSync(join(root, 'DEBIAN'));
  const path = join(folder, `scripts_${version}.deb`);
  const script = `
    mkdir -p etc/xen/scripts
    for name in block block-tap; do
      echo "# $name of ${version}" > etc/xen/scripts/$name
      echo /etc/xen/scripts/$name >> DEBIAN/conffiles
    done
    printf 'Package: vbdkit-test-scripts\\nVersion: ${version}\\nArchitecture: all\\n' > DEBIAN/control
    printf 'Maintainer: nobody <nobody@localhost>\\nDescription: scripts\\n' >> DEBIAN/control
    dpkg-deb --root-owner-group --build . '${path}'`;
  execFileSync('sh', ['-ec', script], { cwd: root, stdio: 'pipe' });
  rmSync(root, { recursive: true });
  return path;
}
