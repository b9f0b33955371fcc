/**
 * A guest's file system with a journal, by the real kernel, on a disk that is served by NBD:
 * ext4 on a loop device on a file of FUSE. All of it is in namespaces that end with this process.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { needsFuse, needsLoop, needsProgram, type SkipOption } from '../peers.ts';

export function needsJournalledGuest(): SkipOption {
  const programs = needsProgram('nbdfuse', 'mkfs.ext4', 'e2fsck');
  const needed = [needsLoop(), needsFuse(), programs];
  return needed.find(({ skip }) => skip !== false) ?? { skip: false };
}

// Processes and mounts end with the first process of the namespaces, that one with who started it.
const APART = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child'];

const BEGIN = `
socket=$1; options=$2; shift 2
mkdir mounted
touch disk
nbdfuse disk --unix "$socket" &
until [ -s disk ]; do sleep 0.01; done
mount -o "loop,$options" disk mounted
(cd mounted && "$@")
umount mounted
# Somebody else may have the loop device open for a moment, and it the file.
tries=0
until umount disk 2> /dev/null; do
  tries=$((tries + 1))
  [ $tries -lt 3000 ]
  sleep 0.01
done
wait
`;

/** Makes a file system with these files, of blocks and a journal so small that it is soon written over. */
export function makeFileSystem(path: string, sizeBytes: number, files: string): void {
  const early = 'lazy_itable_init=0,lazy_journal_init=0';
  // ext4 takes its own superblock for torn, two sectors that it writes in place, where it has a checksum.
  const features = ['-O', '^metadata_csum'];
  const how = ['-q', '-F', ...features, '-b', '1024', '-J', 'size=1', '-E', early, '-d', files];
  execFileSync('mkfs.ext4', [...how, path, `${sizeBytes >> 10}k`]);
}

/**
 * Mounts the file system that is on the disk, runs a command in it and unmounts it.
 * @param folder where it may have files
 */
export function startGuest(
  folder: string,
  socket: string,
  mountOptions: string,
  command: readonly string[],
): ChildProcess {
  const args = [...APART, 'sh', '-ec', BEGIN, 'sh', socket, mountOptions, ...command];
  return spawn('setpriv', args, { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
}

// A second mount finds nothing to do: what the first one mended is mended.
const LOOK = `
mount -o loop "$1" mounted
(cd mounted && sha256sum -- * 2>/dev/null || true)
umount mounted
e2fsck -fn "$1" >&2
`;

/**
 * Mounts a raw disk, which replays its journal, and looks at it; then has it checked.
 * @returns the sha256 of each file by its name
 * @throws Error with what e2fsck says
 */
export function lookAtDisk(folder: string, disk: string): Map<string, string> {
  const args = [...APART, 'sh', '-ec', LOOK, 'sh', disk];
  const { status, stdout, stderr } = spawnSync('setpriv', args, { cwd: folder, encoding: 'utf8' });
  if (status !== 0) throw new Error(`the file system is damaged:\n${stderr}`);
  const lines = stdout.split('\n').filter(Boolean);
  return new Map(lines.map((line) => [line.slice(66), line.slice(0, 64)]));
}
