/** vbd setup and its undo, on a folder of scripts and a dpkg database of the test's own. */
import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { helperPath, scriptTest, standInPath } from '../../src/daemon/scripts.ts';
import { type Ran, run } from '../daemon/vbdd-process.ts';
import { needs, needsProgram } from '../peers.ts';

const vbd = join(import.meta.dirname, '..', '..', 'bin', 'vbd');
const divert = needsProgram('dpkg-divert');
const options = divert.skip === false ? needs(process.getuid?.() === 0, 'needs root') : divert;

interface Host {
  readonly scripts: string;
  readonly record: string;
  setup(...args: string[]): Promise<Ran>;
  /** Every name with its text, and the diversions. */
  readonly look: () => Record<string, string>;
}

function hostOf(t: TestContext): Host {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-setup-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const [scripts, dpkg] = [join(dir, 'scripts'), join(dir, 'dpkg')];
  mkdirSync(scripts);
  mkdirSync(join(dpkg, 'info'), { recursive: true });
  // Whose the scripts are.
  const fields = { Package: 'xen-scripts', Status: 'install ok installed', Version: '1' };
  const more = { Architecture: 'all', Maintainer: 'nobody', Description: 'scripts' };
  const lines = Object.entries({ ...fields, ...more }).map((field) => `${field.join(': ')}\n`);
  writeFileSync(join(dpkg, 'status'), lines.join(''));
  writeFileSync(join(dpkg, 'diversions'), '');
  const owned = ['block', 'block-tap', 'xen-qemu-system-i386'];
  const list = owned.map((name) => `${join(scripts, name)}\n`).join('');
  writeFileSync(join(dpkg, 'info', 'xen-scripts.list'), list);
  for (const name of ['block', 'block-tap', 'vif-bridge']) {
    writeFileSync(join(scripts, name), `#!/bin/sh\necho ${name}\n`, { mode: 0o755 });
  }
  const record = join(dir, 'lib', 'moved');
  const where = ['--script-dir', scripts, '--dpkg-dir', dpkg, '--record', record];
  return {
    scripts,
    record,
    setup: (...args) => run(vbd, ['setup', ...where, ...args]),
    look: () => {
      const texts = readdirSync(scripts).map((name) => {
        const path = join(scripts, name);
        const linked = lstatSync(path).isSymbolicLink();
        return [name, linked ? `-> ${realpathSync(path)}` : readFileSync(path, 'utf8')] as const;
      });
      const diversions = readFileSync(join(dpkg, 'diversions'), 'utf8');
      return { ...Object.fromEntries(texts), diversions };
    },
  };
}

test('the helper takes the place of the scripts, and undo restores all', options, async (t) => {
  const host = hostOf(t);
  const before = host.look();
  const done = await host.setup();
  assert.equal(done.stderr, '');
  assert.deepEqual(
    done.stdout
      .split('\n')
      .map((line) => line.replaceAll(host.scripts, '').replace(/to \/.*libexec/, 'to')),
    [
      'link /block-vbd to/block-vbd',
      'move /block to /block.xen, by a diversion of dpkg',
      'link /block to/block-vbd',
      'move /block-tap to /block-tap.xen, by a diversion of dpkg',
      'link /block-tap to/block-vbd',
      '',
    ],
  );
  const set = host.look();
  for (const name of ['block', 'block-tap', 'block-vbd'])
    assert.equal(set[name], `-> ${helperPath}`);
  assert.equal(set['block.xen'], before['block']);
  assert.match(set['diversions'] ?? '', /scripts\/block\n.*scripts\/block\.xen\n:\n/);

  assert.equal((await host.setup()).stdout, 'nothing is to be done\n');
  assert.deepEqual(host.look(), set);
  assert.equal((await host.setup('--undo')).code, 0);
  assert.deepEqual(host.look(), before);
  assert.equal((await host.setup('--undo')).stdout, 'nothing is to be done\n');
});

test('a dry run says the same and does nothing', options, async (t) => {
  const host = hostOf(t);
  const before = host.look();
  const { stdout } = await host.setup('--dry-run');
  assert.match(
    stdout,
    /^would link .*\nwould move .*block to .*block\.xen, by a diversion of dpkg\n/,
  );
  assert.deepEqual(host.look(), before);
});

test(
  'a host without block-tap, and a setup that was cut short, are completed',
  options,
  async (t) => {
    const host = hostOf(t);
    rmSync(join(host.scripts, 'block-tap'));
    const before = host.look();
    await host.setup();
    rmSync(join(host.scripts, 'block'));
    assert.match((await host.setup()).stdout, /^link .*\/block to .*block-vbd\n$/);
    assert.equal(existsSync(join(host.scripts, 'block-tap')), false);
    await host.setup('--undo');
    assert.deepEqual(host.look(), before);
  },
);

test('what is not ours is left alone', options, async (t) => {
  const host = hostOf(t);
  writeFileSync(join(host.scripts, 'block-vbd'), 'mine');
  const refused = await host.setup();
  assert.match(refused.stderr, /^vbd: .*block-vbd is not vbdkit's link — move it away first\n$/);
  assert.equal(refused.code, 1);
  const none = await run(vbd, ['setup', '--script-dir', '/nonexistent/scripts']);
  assert.match(none.stderr, /there is no \/nonexistent\/scripts, where libxl looks/);
});

test('a script that leads to the helper is vbdkit’s, and no other', options, async (t) => {
  const host = hostOf(t);
  const isOurs = scriptTest(['block-vbd']);
  const block = join(host.scripts, 'block');
  assert.equal(isOurs(block), false);
  await host.setup();
  assert.equal(isOurs(block), true);
  assert.equal(isOurs(`${block}.xen`), false);
  assert.equal(isOurs('/elsewhere/block-vbd'), true);
  assert.equal(isOurs(undefined), false);
});

test(
  'with --qdisk the stand-in takes qemu’s place, where there is one or none',
  options,
  async (t) => {
    for (const isThere of [true, false]) {
      const host = hostOf(t);
      const model = join(host.scripts, 'xen-qemu-system-i386');
      if (isThere) writeFileSync(model, 'qemu', { mode: 0o755 });
      const before = host.look();
      const words = ['--qdisk', '--device-model', model];
      const done = await host.setup(...words);
      assert.equal(done.code, 0, done.stderr);
      assert.equal(realpathSync(model), realpathSync(standInPath));
      if (isThere) assert.equal(readFileSync(`${model}.xen`, 'utf8'), 'qemu');
      assert.equal((await host.setup(...words)).stdout, 'nothing is to be done\n');
      assert.equal((await host.setup('--undo', '--device-model', model)).code, 0);
      assert.deepEqual(host.look(), before);
    }
  },
);

const isRoot = needs(process.getuid?.() === 0, 'needs root');

/** A host without dpkg, where what was moved is in a file. */
function hostWithout(t: TestContext) {
  const { scripts, record, look } = hostOf(t);
  return {
    scripts,
    record,
    block: join(scripts, 'block'),
    look,
    setup: (...words: string[]) =>
      run(vbd, ['setup', '--script-dir', scripts, '--record', record, ...words]),
  };
}

test('without dpkg a rename and a record of it do the same', isRoot, async (t) => {
  const host = hostWithout(t);
  const before = host.look();
  const done = await host.setup();
  assert.match(done.stdout, /^move (\S+block) to \1\.xen\n/m);
  assert.equal(realpathSync(host.block), realpathSync(helperPath));
  assert.equal(host.look()['block.xen'], before['block']);
  assert.equal(readFileSync(host.record, 'utf8'), `${host.block}\n${host.block}-tap\n`);
  assert.equal((await host.setup()).stdout, 'nothing is to be done\n');
  assert.equal((await host.setup('--undo')).code, 0);
  assert.deepEqual(host.look(), before);
  assert.equal(existsSync(host.record), false);
});

test(
  'an upgrade that lands on the link is moved aside in its turn, or stays',
  isRoot,
  async (t) => {
    const host = hostWithout(t);
    const upgrade = (text: string): void => {
      rmSync(host.block);
      writeFileSync(host.block, text);
    };
    await host.setup();
    upgrade('second');
    assert.match(
      (await host.setup()).stdout,
      /^move (\S+block) to \1\.xen, over an older one\nlink \1 to /,
    );
    assert.equal(readFileSync(`${host.block}.xen`, 'utf8'), 'second');
    upgrade('third');
    const undone = await host.setup('--undo');
    assert.match(undone.stdout, /^remove (\S+block)\.xen, which is older than \1\n/);
    assert.equal(readFileSync(host.block, 'utf8'), 'third');
    assert.deepEqual(readdirSync(host.scripts), ['block', 'block-tap', 'vif-bridge']);
  },
);

test(
  'what others have moved aside, and another vbdkit’s link, stay where they are',
  isRoot,
  async (t) => {
    const host = hostWithout(t);
    writeFileSync(`${host.block}.xen`, 'mine');
    assert.match(
      (await host.setup()).stderr,
      /block\.xen is there, and vbdkit did not move it there — move it away first/,
    );
    assert.equal((await host.setup('--undo')).stdout, 'nothing is to be done\n');
    assert.equal(readFileSync(`${host.block}.xen`, 'utf8'), 'mine');
    rmSync(`${host.block}.xen`);
    await host.setup();
    rmSync(host.block);
    symlinkSync('/elsewhere/block-vbd', host.block);
    assert.match((await host.setup()).stderr, /block is not vbdkit’s link — move it away first/);
    assert.match(readFileSync(`${host.block}.xen`, 'utf8'), /echo block$/m);
  },
);

test('a setup that was killed after its note is completed, or forgotten', isRoot, async (t) => {
  const host = hostWithout(t);
  const before = host.look();
  mkdirSync(join(host.record, '..'));
  for (const words of [['--undo'], []]) {
    writeFileSync(host.record, `${host.block}\n`);
    assert.equal((await host.setup(...words)).code, 0);
  }
  await host.setup('--undo');
  assert.deepEqual(host.look(), before);
});

test('what was noted goes back by the note, whatever dpkg has come by since', isRoot, async (t) => {
  const later = hostOf(t);
  const before = later.look();
  const without = ['--script-dir', later.scripts, '--record', later.record];
  assert.equal((await run(vbd, ['setup', ...without])).code, 0);
  const block = join(later.scripts, 'block');
  assert.equal(later.look()['diversions'], '');
  // Xen's upgrade, which knows no diversion.
  rmSync(block);
  writeFileSync(block, 'second');
  assert.match((await later.setup()).stdout, /^move .*block to .*, over an older one\nlink /);
  assert.equal((await later.setup('--undo')).code, 0);
  assert.deepEqual(later.look(), { ...before, block: 'second' });
});

test('a script is not left without any: what nobody has noted stays', isRoot, async (t) => {
  const host = hostWithout(t);
  await host.setup();
  rmSync(host.record);
  const before = host.look();
  const refused = await host.setup('--undo');
  assert.match(
    refused.stderr,
    /nothing says that vbdkit moved (\S+block) to \1\.xen — move it back/,
  );
  assert.deepEqual(host.look(), before);
});
