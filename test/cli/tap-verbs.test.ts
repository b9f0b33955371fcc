/** Verbs on disks that vbd-tap serves on rings, with both programs as processes of their own. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { startTapHost } from '../daemon/tap-host.ts';
import { makeImage } from '../daemon/tap-kit.ts';
import { run } from '../daemon/vbdd-process.ts';
import { needsLoop } from '../peers.ts';
import { shapeOf } from '../shape.ts';
import { jsonExamples, ringVerbs } from './json-examples.ts';

const vbd = join(import.meta.dirname, '..', '..', 'bin', 'vbd');

test(
  'limit, pause, resume, insert and eject print what docs/json.md says',
  needsLoop(),
  async () => {
    await using site = await startTapHost();
    const { dir } = site.host;
    writeFileSync(join(dir, 'a.iso'), Buffer.alloc(1 << 20));
    const path = makeImage(dir, 'web.vmdk', 'vmdk');
    const ring = 'backendtype=tap,script=block-vbd';
    const disks = [
      `${ring},format=vhd,vdev=xvda,target=vmdk:${path}`,
      `${ring},vdev=xvdd,devtype=cdrom,target=`,
    ];
    const guest = await site.host.createGuest({ name: 'web', disks });
    await guest.disk('xvda');
    const examples = jsonExamples().filter(({ words }) => ringVerbs.test(words));
    const paths: unknown[] = [];
    for (const { words, shape } of examples) {
      const args = words.replaceAll('/srv/', `${dir}/`).split(' ');
      const { stdout, stderr } = await run(vbd, args, { VBDKIT_SOCKET: site.socket });
      assert.equal(stderr, '', words);
      const said = JSON.parse(stdout) as { path?: string };
      assert.deepEqual(shapeOf(said), shape, words);
      paths.push(said.path);
    }
    assert.deepEqual(paths, [undefined, path, path, join(dir, 'a.iso'), '']);
    await guest.destroy();
  },
);
