/** vbd doctor: what it finds on hosts that lack something, and forgotten loop devices on this one. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { type Finding, hostFolders } from '../../src/cli/doctor/finding.ts';
import { kernelFindings } from '../../src/cli/doctor/kernel.ts';
import { loopFindings } from '../../src/cli/doctor/loops.ts';
import { serviceFindings } from '../../src/cli/doctor/services.ts';
import { startProcessHost } from '../daemon/vbdd-process.ts';
import { until } from '../patience.ts';
import { needsLoop } from '../peers.ts';

const dir = mkdtempSync(join(tmpdir(), 'vbdkit-doctor-'));
after(() => rmSync(dir, { recursive: true }));

/** The folders of a host that has these files. */
function hostWith(name: string, files: Readonly<Record<string, string>>) {
  const root = join(dir, name);
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return { proc: join(root, 'proc'), sys: join(root, 'sys'), dev: join(root, 'dev') };
}

function verdicts(findings: readonly Finding[]): Record<string, string> {
  return Object.fromEntries(findings.map(({ name, verdict }) => [name, verdict]));
}

const dom0 = {
  'sys/hypervisor/type': 'xen\n',
  'sys/bus/xen-backend/drivers/vbd/bind': '',
  'sys/module/nbd/version': '',
  'proc/xen/capabilities': 'control_d\n',
  'dev/loop-control': '',
  'dev/xen/gntdev': '',
  'dev/xen/evtchn': '',
};
const sound = { kernel: 'ok', loop: 'ok', xen: 'ok', blkback: 'ok', ring: 'ok', nbd: 'ok' };

const hosts: [name: string, without: string, release: string, found: Record<string, string>][] = [
  ['a dom0 that has all', 'nothing', '6.1.0-28-amd64', {}],
  ['an old kernel', 'nothing', '5.7.19', { kernel: 'fault' }],
  ['no loop driver', 'dev/loop-control', '6.1.0', { loop: 'fault' }],
  ['no blkback', 'sys/bus/', '6.1.0', { blkback: 'fault' }],
  ['no grants', 'dev/xen/gntdev', '6.1.0', { ring: 'warning' }],
  ['no nbd driver', 'sys/module/', '6.1.0', { nbd: 'warning' }],
];
for (const [index, [name, without, release, found]] of hosts.entries()) {
  test(`${name}: what is missing is named, with what to do`, () => {
    const files = Object.entries(dom0).filter(([path]) => !path.startsWith(without));
    const host = hostWith(`host-${index}`, Object.fromEntries(files));
    const findings = kernelFindings(host, release);
    assert.deepEqual(verdicts(findings), { ...sound, ...found, io_uring: 'ok' });
    for (const { verdict, advice } of findings) assert.equal(advice === null, verdict === 'ok');
  });
}

test('io_uring that was switched off is told of, and a host without Xen is one', () => {
  const off = hostWith('off', {
    'proc/sys/kernel/io_uring_disabled': '2\n',
    'dev/loop-control': '',
  });
  const found = { kernel: 'ok', loop: 'ok', xen: 'warning', io_uring: 'warning' };
  assert.deepEqual(verdicts(kernelFindings(off, '6.12.1')), found);
});

test(
  'a loop device that nobody has open any more is told of, with its file',
  needsLoop(),
  async () => {
    const file = join(dir, 'forgotten.img');
    writeFileSync(file, Buffer.alloc(1 << 20));
    const losetup = (...args: string[]): string =>
      execFileSync('losetup', args, { encoding: 'utf8' }).trim();
    const device = losetup('--find', '--show', file);
    const told = (): Finding[] =>
      loopFindings(hostFolders).filter(({ says }) => says.includes(file));
    try {
      // For a moment a stranger who lists loop devices has it open.
      await until('it is told of', () => told().length === 1);
      const [finding] = told();
      assert.equal(finding?.says, `${device} is bound to ${file}, and nobody here has it open`);
      assert.equal(finding.advice, `losetup --detach ${device}, if you do not want it`);
      const fd = openSync(device, 'r');
      assert.deepEqual(told(), []);
      closeSync(fd);
      await until('it is told of again', () => told().length === 1);
      execFileSync('mke2fs', ['-q', device]);
      const mounted = join(dir, 'mounted');
      mkdirSync(mounted);
      execFileSync('mount', ['-o', 'ro', device, mounted]);
      try {
        assert.deepEqual(told(), []);
      } finally {
        execFileSync('umount', [mounted]);
      }
    } finally {
      losetup('--detach', device);
    }
  },
);

test(
  'a vbdd that answers is fine; one that does not is a fault, with what to do',
  needsLoop(),
  async () => {
    await using kit = await startProcessHost();
    const found = verdicts(await serviceFindings(hostFolders, kit.socket));
    assert.equal(found['vbdd'], 'ok');
    const nobody = await serviceFindings(hostFolders, join(kit.dir, 'nobody.sock'));
    const vbdd = nobody.find(({ name }) => name === 'vbdd');
    assert.match(vbdd?.says ?? '', /^vbdd does not answer at /);
    assert.deepEqual([vbdd?.verdict, vbdd?.advice], ['fault', 'systemctl start vbdd']);
    const { stdout, code } = await kit.vbd('doctor', '--json');
    const findings = JSON.parse(stdout) as Finding[];
    assert.equal(code, findings.some(({ verdict }) => verdict === 'fault') ? 1 : 0);
    const text = (await kit.vbd('doctor')).stdout;
    // This machine's loop devices come and go between the two.
    const lasting = findings.filter((each) => each.name !== 'leaked loops');
    for (const { name, says } of lasting.filter((each) => each.verdict !== 'ok')) {
      assert.ok(text.includes(`${name}: ${says}\n        → `));
    }
  },
);
