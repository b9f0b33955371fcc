/** The archive for other hosts than Debian's: built, and put into a copy of this machine that has no dpkg. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { home, readVersion } from '../../src/sys/home.ts';
import { buildTarball } from '../../tools/tarball/build.ts';
import { type CopiedHost, copyHost, needsCopiedHost } from '../deb/copied-host.ts';
import { needsProgram } from '../peers.ts';

const options = needsProgram('scdoc');
const installing = options.skip === false ? needsCopiedHost() : options;
const dir = mkdtempSync(join(tmpdir(), 'vbdkit-tarball-'));
const name = `vbdkit-${readVersion()}-linux-x64`;
const script = `/mnt/${name}/install.sh`;
const onPath = 'PATH=$PATH:/usr/local/bin:/usr/local/sbin:/opt/vbdkit/bin:/opt/vbdkit/sbin';
let host: CopiedHost;

async function build(folder: string): Promise<string> {
  mkdirSync(join(dir, folder));
  return buildTarball({ folder: join(dir, folder), epoch: '1700000000', compress: false });
}

before(async () => {
  if (options.skip !== false) return;
  const path = await build('one');
  execFileSync('tar', ['--extract', '--file', path, '--directory', join(dir, 'one')]);
  if (installing.skip !== false) return;
  host = await copyHost(join(dir, 'one'));
  host.run(`
    rm -rf /usr/bin/dpkg* /var/cache/vbdkit && mkdir -p /etc/xen/scripts
    for name in block block-tap; do echo "# $name of 1" > /etc/xen/scripts/$name; done`);
});
after(async () => {
  if (installing.skip === false) await host[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

/** Notes what is on the host where programs and their files are kept, with kinds, rights and links. */
const look = (as: string): string =>
  host.run(
    `find /etc /opt /usr/local /var/lib/vbdkit /var/cache/vbdkit -xdev -printf '%p %M %l\n' 2> /dev/null |
      sort > /root/${as}`,
  );

/** What is another now. */
function changed(): string {
  look('is');
  return host.try('diff /root/was /root/is >&2').stderr;
}

function refused(command: string): string {
  const { code, stderr } = host.try(command);
  assert.equal(code, 1, stderr);
  return stderr.trim();
}

test('the same sources make the same archive', options, async () => {
  const [one, two] = [join(dir, 'one', `${name}.tar`), await build('two')].map((path) =>
    createHash('sha256').update(readFileSync(path)).digest('hex'),
  );
  assert.equal(one, two);
});

test('shellcheck finds no fault in its scripts', needsProgram('shellcheck'), () => {
  const scripts = ['install.sh', 'uninstall.sh'].map((each) => join(home, 'tools/tarball', each));
  execFileSync('shellcheck', scripts, { stdio: 'pipe' });
});

test('with --destdir it makes a tree for packagers, whose programs run from there', options, () => {
  const place = join(dir, 'dest');
  execFileSync(join(dir, 'one', name, 'install.sh'), [
    `--destdir=${place}`,
    '--prefix=/opt/vbdkit',
  ]);
  assert.deepEqual(readdirSync(place), ['etc', 'opt', 'var']);
  assert.deepEqual(readdirSync(join(place, 'etc')), ['systemd', 'xen']);
  const unit = readFileSync(join(place, 'etc/systemd/system/vbdd.service'), 'utf8');
  assert.match(unit, /^ExecStart=\/opt\/vbdkit\/sbin\/vbdd$/m);
  for (const program of ['bin/vbd', 'sbin/vbdd', 'sbin/vbd-tap']) {
    const path = join(place, 'opt/vbdkit', program);
    assert.ok(lstatSync(path).isSymbolicLink());
    const said = execFileSync(path, ['--version'], {
      encoding: 'utf8',
      env: { ...process.env, NODE_COMPILE_CACHE: join(dir, 'cache') },
    });
    assert.match(said, new RegExp(`${readVersion()}\n$`));
  }
});

test('it is installed, upgraded and taken away, and leaves the host as it was', installing, () => {
  look('was');
  const said = host.run(script);
  assert.match(said, /vbd-tap --background.*vbdd &\nthen: \/usr\/local\/bin\/vbd setup /);
  assert.equal(
    host.run('readlink /etc/xen/scripts/* || true'),
    '/usr/local/libexec/vbdkit/block-vbd\n',
    'Xen’s scripts have their places until vbd setup',
  );
  host.run(`${onPath}; vbd setup`);
  assert.match(host.run('readlink -m /etc/xen/scripts/block'), /libexec\/vbdkit\/block-vbd/);
  assert.match(host.run('cat /var/lib/vbdkit/moved'), /scripts\/block\n.*scripts\/block-tap\n/);

  // A program that runs is replaced, and what the version before had goes.
  host.run(`touch /usr/local/lib/vbdkit/old
    echo /usr/local/lib/vbdkit/old >> /usr/local/lib/vbdkit/installed
    sort -o /usr/local/lib/vbdkit/installed /usr/local/lib/vbdkit/installed
    echo 'fallback = true' >> /etc/xen/vbdkit.conf`);
  host.run(`${onPath}; truncate -s 1M /root/a.img; vbd serve --socket /root/a.sock /root/a.img & sleep 0.1
    until [ -S /root/a.sock ]; do sleep 0.1; done; ${script}; kill $!`);
  assert.equal(host.try('test -e /usr/local/lib/vbdkit/old').code, 1);
  assert.match(host.run('cat /etc/xen/vbdkit.conf'), /^fallback = true$/m);
  assert.equal(host.run(`${onPath}; vbd setup`), 'nothing is to be done\n');

  const gone = host.run('/usr/local/lib/vbdkit/uninstall.sh');
  assert.match(gone, /vbdkit\.conf has been changed, and is kept/);
  host.run('rm /etc/xen/vbdkit.conf');
  assert.equal(host.run('cat /etc/xen/scripts/block'), '# block of 1\n');
  assert.equal(changed(), '');
});

test(
  'what runs from it is the whole of vbdkit: verbs, a tap, vbdd and the demonstration',
  installing,
  () => {
    host.run(`${script} --prefix=/opt/vbdkit`);
    host.run(`${onPath}; mkdir /root/guests
    vbd create -f qcow2 /root/a.qcow2 1M && vbd check /root/a.qcow2
    vbd-tap --background --guests /root/guests --workers 1 --socket /root/run/tap.sock
    kill $(cat /root/run/tap.pid)`);
    assert.match(
      refused(`${onPath}; vbdd --config /nonexistent`),
      /^vbdd: cannot read \/nonexistent — /,
    );
    assert.match(host.run(`${onPath}; vbd demo`), /guest-vmdk +disk\.vmdk +w +its ring/);
    const said = host.run('systemd-analyze verify --man=no /etc/systemd/system/vbd*.service 2>&1');
    assert.equal(said.replaceAll(/^.*xen.*\n/gm, ''), '');
  },
);

test('what would not work is refused in a sentence, before anything is changed', installing, () => {
  look('was');
  const nobody = 'setpriv --reuid=65534 --regid=65534 --clear-groups';
  assert.equal(
    refused(`${nobody} ${script}`),
    'install.sh: only root may install into the system — use sudo, or --destdir',
  );
  assert.match(refused(`${script} --prefix=here`), /--prefix here is no absolute path — say /);
  assert.match(refused(`${script} --prefix='/a b'`), /has a character that units cannot have — /);
  assert.match(refused(script), /vbdd\.service starts a vbdkit of another folder — uninstall that/);
  const stub = (program: string, says: string): string =>
    `mkdir /root/stub; printf '#!/bin/sh\\necho ${says}\\n' > /root/stub/${program}
     chmod 755 /root/stub/${program}; PATH=/root/stub:$PATH; trap 'rm -r /root/stub' EXIT`;
  assert.match(
    refused(`${stub('dpkg-query', 'installed')}; ${script} --prefix=/opt/vbdkit`),
    /vbdkit is here as a Debian package — upgrade that, or remove it first/,
  );
  assert.match(
    refused(`${stub('uname', 'riscv64')}; ${script}`),
    /for Linux\/x86_64 and this is riscv64\/riscv64 — there are no others/,
  );
  assert.equal(spawnSync(join(dir, 'one', name, 'install.sh'), ['--wrong']).status, 2);
  assert.equal(changed(), '');
});

test('beneath guests whose disks the tap serves it is not taken away', installing, () => {
  const vbd = '/opt/vbdkit/bin/vbd';
  host.run(
    `mv ${vbd} ${vbd}.away; printf '#!/bin/sh\\necho ring web xvda\\n' > ${vbd}; chmod 755 ${vbd}`,
  );
  const uninstall = '/opt/vbdkit/lib/vbdkit/uninstall.sh';
  assert.match(
    refused(uninstall),
    /guests still have disks that vbd-tap serves — .*\nring web xvda$/,
  );
  host.run(`mv ${vbd}.away ${vbd}; ${uninstall}`);
  assert.equal(host.try('ls /opt/vbdkit').code, 2);
});
