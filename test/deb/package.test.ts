/** The Debian package: built, read by dpkg, and installed into a copy of this machine, where its programs run. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { verbs } from '../../src/cli/verbs.ts';
import { home, readVersion } from '../../src/sys/home.ts';
import { buildPackage } from '../../tools/deb/build.ts';
import { pageNames } from '../../tools/pages/pages.ts';
import { freePort } from '../free-port.ts';
import { needsLoop, needsProgram } from '../peers.ts';
import { buildScripts, type CopiedHost, copyHost, needsCopiedHost } from './copied-host.ts';

const options = needsProgram('dpkg-buildpackage', 'dh', 'scdoc');
const installing = options.skip === false ? needsCopiedHost() : options;
const dir = mkdtempSync(join(tmpdir(), 'vbdkit-deb-'));
/** Its own times would not make two packages differ; the last commit's need a repository. */
const epoch = '1700000000';
const name = `vbdkit_${readVersion()}_amd64.deb`;
let host: CopiedHost;

async function build(folder: string): Promise<string> {
  mkdirSync(join(dir, folder));
  return buildPackage({ folder: join(dir, folder), epoch, compression: '-Znone' });
}

before(async () => {
  if (options.skip !== false) return;
  await build('one');
  if (installing.skip === false) host = await copyHost(join(dir, 'one'));
});
after(async () => {
  if (installing.skip === false) await host[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true });
});

test('the same sources make the same bytes', options, async () => {
  const [one, two] = [join(dir, 'one', name), await build('two')].map((path) =>
    createHash('sha256').update(readFileSync(path)).digest('hex'),
  );
  assert.equal(one, two);
});

test(
  'the package has programs, pages, units and a configuration, and nothing in Xen’s folder',
  options,
  () => {
    const list = execFileSync('dpkg-deb', ['--contents', join(dir, 'one', name)], {
      encoding: 'utf8',
    });
    const paths = list.split('\n').map((line) => line.split(' ./')[1]?.split(' -> ')[0] ?? '');
    const wanted = [
      'etc/xen/vbdkit.conf',
      'lib/systemd/system/vbdd.service',
      'lib/systemd/system/vbd-tap.service',
      'usr/bin/vbd',
      'usr/sbin/vbdd',
      'usr/sbin/vbd-tap',
      'usr/libexec/vbdkit/block-vbd',
      'usr/libexec/vbdkit/xen-qemu',
      'usr/lib/tmpfiles.d/vbdkit.conf',
      ...['index.html', 'page.js', 'page.css', 'icon.svg'].map(
        (each) => `usr/lib/vbdkit/page/${each}`,
      ),
      'usr/lib/vbdkit/src/js/map-worker.js',
      'usr/share/bash-completion/completions/vbd',
      ...pageNames().map((page) => `usr/share/man/man${page.split('.').at(-1)}/${page}.gz`),
    ];
    assert.deepEqual(
      wanted.filter((path) => !paths.includes(path)),
      [],
    );
    assert.deepEqual(
      paths.filter((path) => path.startsWith('etc/xen/scripts')),
      [],
    );
    assert.deepEqual(
      paths.filter((path) => path.endsWith('.ts')),
      [],
    );
    assert.ok(!list.includes(dir) && !/ (?!root\/root)\w+\/\w+ +\d/.test(list), 'all is root’s');
  },
);

test('shellcheck finds no fault in its scripts', needsProgram('shellcheck'), () => {
  const scripts = ['config', 'postinst', 'prerm', 'postrm'].map((each) => {
    return join(home, 'debian', `vbdkit.${each}`);
  });
  // debconf's own functions are not looked into.
  execFileSync('shellcheck', ['--exclude=SC1091', ...scripts], { stdio: 'pipe' });
});

test(
  'it takes the scripts’ places, Xen’s upgrades pass below it, and removal gives them back',
  installing,
  () => {
    const where = '/etc/xen/scripts';
    const helper = '/usr/libexec/vbdkit/block-vbd';
    const links = (): string =>
      host.run(`cd ${where} && readlink -m block block-tap block-vbd || true`);
    for (const version of ['1', '2']) buildScripts(join(dir, 'one'), version);
    const install = (file: string): string => host.run(`dpkg -i /mnt/${file} 2>&1`);
    install('scripts_1.deb');
    install(name);
    assert.equal(links(), `${helper}\n`.repeat(3));
    assert.equal(host.run(`cat ${where}/block.xen`), '# block of 1\n');
    install('scripts_2.deb');
    assert.equal(links(), `${helper}\n`.repeat(3));
    assert.equal(host.run(`cat ${where}/block-tap.xen`), '# block-tap of 2\n');
    install(name);
    assert.equal(links(), `${helper}\n`.repeat(3), 'an upgrade of the package changes nothing');

    const model = '/usr/libexec/xen-qemu-system-i386';
    host.run(`mkdir -p /usr/libexec && echo '# qemu' > ${model} && vbd setup --qdisk`);
    assert.match(host.run(`readlink ${model}`), /libexec\/vbdkit\/xen-qemu/);

    // A disk of a tap, and no vbdd that knows whose it is.
    host.run('mkdir -p /run/vbdkit/statistics; touch /run/vbdkit/statistics/5-51712');
    const { code, stderr } = host.try('dpkg --remove vbdkit');
    assert.equal(code, 1);
    assert.match(stderr, /vbdd does not answer, and vbd-tap has disks of guests — .*\n5-51712\n/);
    assert.equal(links(), `${helper}\n`.repeat(3));
    host.run('rm -r /run/vbdkit; dpkg --remove vbdkit');
    assert.equal(host.run(`cat ${model}; rm ${model}`), '# qemu\n');
    assert.equal(host.run(`cat ${where}/block`), '# block of 2\n');
    assert.equal(host.run(`ls ${where}`), 'block\nblock-tap\n');
    assert.equal(host.run('dpkg-divert --list "*xen*"'), '');
    assert.equal(host.run('ls /etc/xen'), 'scripts\nvbdkit.conf\n');
    host.run('dpkg --purge vbdkit');
    assert.equal(host.run('ls /etc/xen'), 'scripts\n');
    assert.equal(host.run('ls -d /var/lib/vbdkit /run/vbdkit 2> /dev/null || true'), '');
  },
);

test(
  'an upgrade and the way back keep all in its place, and purge leaves nothing',
  installing,
  () => {
    nextPackage();
    const where = '/etc/xen/scripts';
    const look = (): string =>
      host.run(`dpkg-query -W -f '\${Version}\n' vbdkit; dpkg-divert --list '*xen*' | sort
      cd ${where} && readlink -m block block-tap block-vbd; vbd --version
      ls /usr/lib/vbdkit; tail -n 1 /etc/xen/vbdkit.conf`);
    const install = (file: string): string => {
      host.run(`dpkg --install --force-confdef /mnt/${file} 2>&1`);
      return look();
    };
    const all = (): string =>
      host.run(`find /etc /usr /var -xdev -path '*vbdkit*'; ls ${where} /etc/xen`);
    const before = all();
    const old = install(name);
    host.run('echo spare_loops = 3 >> /etc/xen/vbdkit.conf');
    const next = install('next.deb');
    assert.match(next, new RegExp(`^${readVersion()}\\.1\\n(diversion of .* by vbdkit\\n){2}`));
    assert.match(next, /^next\.js\n/m, 'a file that only the next one has');
    assert.match(next, /^spare_loops = 3\n$/m, 'what an administrator has written stays');
    assert.equal(install(name), old.replace(/.*\n$/, 'spare_loops = 3\n'));
    host.run('dpkg --purge vbdkit');
    const after = all();
    assert.equal(after, before);
    assert.equal(host.run('dpkg-divert --list "*xen*"'), '');
  },
);

/** The package once more: a version later, with a program's file and a word in the configuration more. */
function nextPackage(): void {
  const script = `
    dpkg-deb --raw-extract ${name} tree
    sed -i 's/^Version: .*/&.1/' tree/DEBIAN/control
    echo > tree/usr/lib/vbdkit/next.js; echo '# next' >> tree/etc/xen/vbdkit.conf
    rm tree/DEBIAN/md5sums; dpkg-deb -Znone --root-owner-group --build tree next.deb; rm -r tree`;
  execFileSync('sh', ['-ec', script], { cwd: join(dir, 'one'), stdio: 'pipe' });
}

test('systemd’s own programs find no fault in units and tmpfiles', installing, () => {
  host.run(`dpkg -i /mnt/${name}`);
  host.run('rm -rf /var/cache/vbdkit; systemd-tmpfiles --create vbdkit.conf');
  assert.equal(host.run("stat -c '%A %U %G' /var/cache/vbdkit"), 'drwxr-xr-x root root\n');
  const said = host.run('systemd-analyze verify --man=no vbdd.service vbd-tap.service 2>&1');
  assert.equal(said, '');
  host.run('dpkg --purge vbdkit');
});

test('who says no keeps Xen’s scripts, and may say yes later', installing, () => {
  host.run('echo vbdkit vbdkit/take-place boolean false | debconf-set-selections');
  host.run(`dpkg -i /mnt/${name}`);
  assert.equal(host.run('cat /etc/xen/scripts/block'), '# block of 2\n');
  assert.match(host.run('readlink /etc/xen/scripts/block-vbd'), /libexec\/vbdkit\/block-vbd/);
  host.run('vbd setup');
  host.run(`dpkg -i /mnt/${name}`);
  assert.match(host.run('readlink /etc/xen/scripts/block'), /libexec\/vbdkit\/block-vbd/);
  host.run('vbd setup --undo');
  host.run('echo vbdkit vbdkit/take-place boolean true | debconf-set-selections');
  host.run('dpkg-reconfigure vbdkit');
  assert.match(host.run('readlink /etc/xen/scripts/block'), /libexec\/vbdkit\/block-vbd/);
  assert.match(host.run('vbd setup'), /nothing is to be done/);
  assert.match(host.run('vbd setup --undo'), /move .*block\.xen back/);
  assert.equal(host.run('cat /etc/xen/scripts/block'), '# block of 2\n');

  // A script that is in no package, as of a Xen that somebody has built here.
  host.run(String.raw`sed -i '/\/block$/d' /var/lib/dpkg/info/vbdkit-test-scripts.list; vbd setup`);
  assert.equal(host.run('cat /var/lib/vbdkit/moved'), '/etc/xen/scripts/block\n');
  host.run('dpkg-reconfigure vbdkit');
  assert.match(host.run('readlink /etc/xen/scripts/block'), /libexec\/vbdkit\/block-vbd/);
  host.run('vbd setup --undo');
  assert.equal(host.run('cat /etc/xen/scripts/block'), '# block of 2\n');
});

test('what is installed runs: programs, every verb, images in every format', installing, () => {
  const version = readVersion();
  assert.equal(host.run('vbd --version'), `${version}\n`);
  assert.equal(host.run('vbdd --version'), `vbdd ${version}\n`);
  assert.equal(host.run('vbd-tap --version'), `vbd-tap ${version}\n`);
  const help = host.run('vbd --help');
  for (const verb of Object.keys(verbs)) assert.match(help, new RegExp(`^ {2}${verb} `, 'm'));
  host.run('head -c 1M /dev/urandom > /root/a.img');
  for (const format of ['vhd', 'vmdk', 'qcow2', 'vhdx']) {
    host.run(`vbd convert -f raw -O ${format} /root/a.img /root/a.${format}`);
    host.run(`vbd compare -f raw -F ${format} /root/a.img /root/a.${format}`);
    host.run(`vbd check -f ${format} /root/a.${format}`);
  }
  const served = host.run(
    "vbd serve -r -f qcow2 /root/a.qcow2 --run 'test -S $unixsocket && echo is there'",
  );
  assert.equal(served, 'is there\n');
  const wrong = host.try('vbdd --config /nonexistent');
  assert.deepEqual(
    [wrong.code, wrong.stderr.split(' — ')[0]],
    [1, 'vbdd: cannot read /nonexistent'],
  );
});

test('the demonstration plays from the package', { ...installing, ...demoOptions() }, () => {
  const shown = host.run('vbd demo');
  assert.match(shown, /losetup --list shows no loop device on any of these files any more\n/);
  assert.match(shown, /guest-vmdk +disk\.vmdk +w +its ring/);
});

test('the page is had from the package', { ...installing, ...demoOptions() }, async () => {
  const page = `127.0.0.1:${await freePort()}`;
  const files = ['', 'page.js', 'page.css', 'icon.svg'].map((file) => `http://${page}/${file}`);
  const shown = host.run(`vbd demo --page ${page} > /tmp/demo & pid=$!
    for i in $(seq 300); do grep -q 'the page is at' /tmp/demo && break; sleep 0.1; done
    curl --silent --fail ${files.join(' ')} > /tmp/page
    curl --silent 'http://${page}/v1/disks/web/xvda/map?cells=1'
    kill -INT $pid; wait $pid`);
  assert.match(shown, /^\{"size":268435456,/);
});

function demoOptions(): { skip: string | false } {
  return installing.skip === false ? needsLoop() : installing;
}
