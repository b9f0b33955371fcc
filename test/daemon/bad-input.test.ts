/** What cannot be attached: one sentence wherever someone looks for it, and nothing left behind. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openClient } from '../../src/cli/client.ts';
import { needsLoop } from '../peers.ts';
import { boundLoops } from '../sys/losetup.ts';
import { backendOf } from './test-daemon.ts';
import { image, type ProcessHost, startProcessHost } from './vbdd-process.ts';

const options = needsLoop();
const backends = '/local/domain/0/backend/vbd';
let kit: ProcessHost;
before(async () => {
  if (options.skip === false) kit = await startProcessHost();
});
after(async () => {
  if (options.skip === false) await kit[Symbol.asyncDispose]();
});

interface Row {
  readonly what: string;
  /** Makes it and tells its path. */
  readonly make: () => string;
  readonly says: RegExp;
}

const inDir = (name: string): string => join(kit.dir, name);
const rows: readonly Row[] = [
  { what: 'a missing path', make: () => inDir('none'), says: /none does not exist — check/ },
  { what: 'a directory', make: () => kit.dir, says: /is a directory — give a regular file or/ },
  { what: 'a character device', make: () => '/dev/null', says: /is a character device — give/ },
  {
    what: 'a FIFO',
    make() {
      execFileSync('mkfifo', [inDir('fifo')]);
      return inDir('fifo');
    },
    says: /is a FIFO — give a regular file or a block device/,
  },
  {
    what: 'a loop of links',
    make() {
      symlinkSync('loop', inDir('loop'));
      return inDir('loop');
    },
    says: /is a loop of symbolic links — give the path of the file itself/,
  },
  {
    what: 'a file that nobody may write',
    make() {
      writeFileSync(inDir('ro.img'), 'x', { mode: 0o444 });
      return inDir('ro.img');
    },
    says: /is read-only — attach it with access=r/,
  },
  {
    what: 'a path through a file',
    make: () => join(image(kit, 'file'), 'x'),
    says: /a part of the path is not a directory — check the path/,
  },
  {
    what: 'a path that is too long',
    make: () => inDir('x'.repeat(300)),
    says: /is too long a path — give a shorter one/,
  },
  {
    what: 'an image that is not there',
    make: () => `vmdk:${inDir('none.vmdk')}`,
    says: /none\.vmdk does not exist — check/,
  },
  {
    what: 'an image, where no tap runs',
    make: () => `vmdk:${image(kit, 'a.vmdk')}`,
    says: /vbd-tap does not answer at .* — start it/,
  },
];

for (const { what, make, says } of rows) {
  test(`${what}: the same sentence on the terminal and in the store`, options, async () => {
    await refused(make(), says);
  });
}

test('an immutable file is not opened for writing', options, async () => {
  const path = image(kit, 'immutable.img');
  execFileSync('chattr', ['+i', path]);
  try {
    await refused(path, /immutable\.img may not be opened so — is it immutable \(lsattr\)\?/);
  } finally {
    execFileSync('chattr', ['-i', path]);
  }
});

test('a vbdd without descriptors says so, and attaches when it has some', options, async () => {
  const path = image(kit, 'late.img');
  const limit = (most: string): void => {
    execFileSync('prlimit', ['--pid', String(kit.vbdd.pid), `--nofile=${most}`]);
  };
  const open = readdirSync(`/proc/${kit.vbdd.pid}/fd`).map(Number);
  const free = [...open.keys(), open.length].find((number) => !open.includes(number));
  const guest = await kit.host.createGuest({ name: 'late' });
  limit(`${free}:4096`);
  await writeNodes(guest.domid, path);
  assert.match(
    await outcome(guest.domid),
    /late\.img .*no descriptor left — raise its LimitNOFILE/,
  );
  limit('4096:4096');
  await kit.host.store.remove(backends);
  const attached = await kit.vbd('attach', 'late', `${path},raw,xvda,rw`);
  assert.equal(attached.stderr, '');
  await guest.destroy();
});

test('a NUL in a name, which only the API can be asked for, is told as such', options, async () => {
  const guest = await kit.host.createGuest({ name: 'nul' });
  const spec = [`vdev=xvda,script=block-vbd,target=${kit.dir}/a\0b`];
  const asked = openClient(kit.socket).ask('POST /v1/disks', { body: { guest: 'nul', spec } });
  await assert.rejects(asked, { kind: 'invalid', message: /holds a NUL character — / });
  assert.equal(await kit.host.store.directory(backends), undefined);
  await guest.destroy();
});

/** Asks for it by the command line, then as a toolstack does: the sentence must be the same. */
async function refused(path: string, says: RegExp): Promise<void> {
  const guest = await kit.host.createGuest({ name: 'web' });
  const spec = `vdev=xvda,script=block-vbd,target=${path}`;
  const { code, stderr } = await kit.vbd('attach', 'web', spec);
  assert.notEqual(code, 0);
  assert.match(stderr, says);
  assert.equal(stderr.trim().split('\n').length, 1, stderr);
  assert.equal(await kit.host.store.directory(backends), undefined);

  await writeNodes(guest.domid, path);
  const told = await outcome(guest.domid);
  assert.equal(stderr, `vbd: ${told}\n`);
  await kit.host.store.remove(backends);
  await guest.destroy();
  assert.equal(boundLoops(kit.dir).size, 0);
}

async function writeNodes(domid: number, params: string): Promise<void> {
  const path = backendOf(domid);
  await kit.host.store.transaction((tx) => {
    const nodes = { script: '/s/block-vbd', params, mode: 'w', online: '1', state: '2' };
    for (const [name, value] of Object.entries(nodes)) void tx.write(`${path}/${name}`, value);
  });
}

/** What the disk's own nodes say of why it is not there. */
async function outcome(domid: number): Promise<string> {
  const { store } = kit.host;
  const path = backendOf(domid);
  for await (const _ of store.watch(path, AbortSignal.timeout(20_000))) {
    if ((await store.read(`${path}/hotplug-status`)) !== undefined) break;
  }
  return (await store.read(`${path}/hotplug-error`)) ?? 'nothing';
}
