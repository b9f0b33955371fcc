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
    `find /etc/systemd /etc/xen /opt /usr/local /var/lib/vbdkit /var/cache/vbdkit -xdev -printf '%p %M %l\n' 2> /dev/null |
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

/** A command of sh with another program in the place of one on PATH. */
const instead = (program: string, does: string, command: string): string => {
  const lines = `#!/bin/sh\n${does}\n`.replaceAll("'", `'"'"'`);
  return `mkdir /root/stub; printf '%s' '${lines}' > /root/stub/${program}
    chmod 755 /root/stub/${program}; PATH=/root/stub:$PATH; trap 'rm -r /root/stub' EXIT; ${command}`;
};

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
    '--prefix=/opt//vbdkit/',
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
    trap "kill $!" EXIT; until [ -S /root/a.sock ]; do sleep 0.1; done; ${script} --prefix=/usr/local/`);
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
    // A prefix behind a link, as where a disk of its own has /opt.
    host.run(`mkdir /opt/disk; ln -s disk/vbdkit /opt/vbdkit; ${script} --prefix=/opt/vbdkit/`);
    host.run(`${onPath}; vbd setup`);
    assert.match(host.run('readlink /etc/xen/scripts/block'), /^\/opt\/disk\/vbdkit\/libexec\//);
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
  assert.match(
    refused(instead('dpkg-query', 'echo installed', `${script} --prefix=/opt/vbdkit`)),
    /vbdkit is here as a Debian package — upgrade that, or remove it first/,
  );
  assert.match(
    refused(instead('uname', 'echo riscv64', script)),
    /for Linux\/x86_64 and this is riscv64\/riscv64 — there are no others/,
  );
  assert.equal(spawnSync(join(dir, 'one', name, 'install.sh'), ['--wrong']).status, 2);
  assert.equal(changed(), '');
});

test('beneath guests whose disks the tap serves it is not taken away', installing, () => {
  const vbd = '/opt/vbdkit/lib/vbdkit/bin/vbd';
  const uninstall = '/opt/vbdkit/lib/vbdkit/uninstall.sh';
  const says = (does: string): string => {
    host.run(`printf '#!/bin/sh\n${does}\n' > ${vbd}; chmod 755 ${vbd}`);
    return refused(uninstall);
  };
  host.run(
    `mv ${vbd} ${vbd}.away; mkdir -p /run/vbdkit/statistics; touch /run/vbdkit/statistics/5-51712`,
  );
  assert.match(
    says('echo ring web xvda'),
    /guests still have disks that vbd-tap serves — .*\nring web xvda$/,
  );
  assert.match(says('exit 1'), /vbdd does not answer, and vbd-tap has disks of .*\n5-51712$/);
  host.run(`mv ${vbd}.away ${vbd}; rm -r /run/vbdkit`);
});

test('a removal that was cut short is ended by the next one', installing, () => {
  const uninstall = '/opt/vbdkit/lib/vbdkit/uninstall.sh';
  const rm = 'case "$*" in */page.js*) exit 1; esac; exec /usr/bin/rm "$@"';
  assert.equal(host.try(instead('rm', rm, uninstall)).code, 1);
  assert.equal(host.run('cat /etc/xen/scripts/block'), '# block of 1\n');
  host.run(uninstall);
  assert.equal(
    host.run('ls /opt/disk /etc/xen/scripts'),
    '/etc/xen/scripts:\nblock\nblock-tap\n\n/opt/disk:\n',
  );
});

test('an installation that was cut short is taken away, too', installing, () => {
  host.run('rm -r /opt/disk /opt/vbdkit');
  look('was');
  const mv = 'case "$*" in */page.js) exit 1; esac; exec /usr/bin/mv "$@"';
  assert.equal(host.try(instead('mv', mv, script)).code, 1);
  host.run('/usr/local/lib/vbdkit/uninstall.sh');
  assert.equal(changed(), '');
});

test('what others have where it is to be is not overwritten', installing, () => {
  host.run(`ln -s /root/checkout/bin/vbd /usr/local/bin/vbd
    echo '# mine' > /etc/systemd/system/vbd-tap.service`);
  look('was');
  assert.match(
    refused(script),
    /there are files that no .*\n\/etc\/systemd\/system\/vbd-tap\.service\n\/usr\/local\/bin\/vbd$/,
  );
  assert.equal(changed(), '');
});
