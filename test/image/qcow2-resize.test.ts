/** Another size for qcow2 images with bitmaps, data files and larger parents: as qemu-img makes it. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Failure } from '../../src/base/failure.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';

const peers = needsProgram('qemu-img', 'qemu-io');
const MiB = 2 ** 20;

function inFolder(run: (at: (name: string) => string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-resize-'));
  try {
    run((name) => join(folder, name));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const qemuImg = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' });

function io(path: string, ...commands: string[]): void {
  const words = commands.flatMap((command) => ['-c', command]);
  const said = execFileSync('qemu-io', ['-f', 'qcow2', ...words, path], { encoding: 'utf8' });
  assert.ok(!said.includes('failed'), said);
}

function change(path: string, work: (image: Image, transfer: Transfer) => void): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { format: 'qcow2', writable: true, files });
  try {
    work(image, transfer);
  } finally {
    transfer.close(image);
  }
}

test('what a cut takes from a bitmap does not come back, within one byte of it', peers, () => {
  inFolder((at) => {
    const grains = (count: number): number => count * 65_536;
    const [ours, theirs] = [at('ours'), at('theirs')];
    qemuImg('create', '-q', '-f', 'qcow2', ours, String(grains(20)));
    qemuImg('bitmap', '--add', '-g', '64k', '-f', 'qcow2', ours, 'b');
    io(ours, `write ${grains(3)} 64k`, `write ${grains(18)} 64k`);
    copyFileSync(ours, theirs);
    for (const count of [17, 20]) {
      const shrink = count < 20 ? ['--shrink'] : [];
      qemuImg('resize', '-q', '-f', 'qcow2', ...shrink, theirs, String(grains(count)));
      change(ours, (image, transfer) => transfer.resize(image, grains(count)));
      assert.deepEqual(bitmapsOf(ours), bitmapsOf(theirs));
    }
  });
});

/** All bitmaps of an image, and what is dirty in them, as bytes of the disk where that changes. */
function bitmapsOf(path: string): object {
  using files = createFileTable();
  using image = openImage(path, { format: 'qcow2', writable: false, files });
  const { bitmaps, sizeBytes } = image;
  return (bitmaps?.list() ?? []).map((info) => {
    const bitmap = bitmaps?.find(info.name);
    assert.ok(bitmap !== undefined);
    const runs: [at: number, isDirty: boolean][] = [];
    for (let at = 0; at < sizeBytes; at = bitmap.runEnd(at)) {
      if (runs.at(-1)?.[1] !== bitmap.isDirty(at)) runs.push([at, bitmap.isDirty(at)]);
    }
    return { ...info, runs };
  });
}

for (const [from, to] of [
  [10 * MiB, 45 * MiB],
  [45 * MiB, 9 * MiB + 3584],
  [10 * MiB, 10 * MiB + 512],
] as const) {
  test(
    `bitmaps follow a disk from ${from} to ${to} bytes as qemu-img has them follow it`,
    peers,
    () => {
      inFolder((at) => {
        const [ours, theirs] = [at('ours'), at('theirs')];
        qemuImg('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', ours, String(from));
        qemuImg('bitmap', '--add', '-g', '512', '-f', 'qcow2', ours, 'fine');
        qemuImg('bitmap', '--add', '-g', '64k', '-f', 'qcow2', ours, 'of another grain');
        io(ours, 'write 1k 3k', 'write 8M 100k', `write ${from - 1024} 1k`);
        qemuImg('bitmap', '--disable', '-f', 'qcow2', ours, 'of another grain');
        io(ours, 'write 4M 1M');
        copyFileSync(ours, theirs);
        const shrink = to < from ? ['--shrink'] : [];
        qemuImg('resize', '-q', '-f', 'qcow2', ...shrink, theirs, String(to));
        change(ours, (image, transfer) => transfer.resize(image, to));
        assert.deepEqual(bitmapsOf(ours), bitmapsOf(theirs));
        qemuImg('check', '-q', '-f', 'qcow2', ours);
        qemuImg('compare', '-q', '-f', 'qcow2', '-F', 'qcow2', ours, theirs);
        // What is written from then on is in them, for qemu, too.
        change(ours, (image, transfer) => transfer.write(image, Buffer.alloc(512, 1), to - 512));
        io(theirs, `write -P 1 ${to - 512} 512`);
        assert.deepEqual(bitmapsOf(ours), bitmapsOf(theirs));
      });
    },
  );
}

test('a bitmap that was not stored in order keeps a disk from being resized', peers, () => {
  inFolder((at) => {
    qemuImg('create', '-q', '-f', 'qcow2', at('a'), '1M');
    qemuImg('bitmap', '--add', '-f', 'qcow2', at('a'), 'b');
    using files = createFileTable();
    // Never closed, as by a kill.
    using image = openImage(at('a'), { format: 'qcow2', writable: true, files });
    createTransfer(files).write(image, Buffer.alloc(512, 1), 0);
    copyFileSync(at('a'), at('b'));
    assert.throws(
      () => change(at('b'), (left, transfer) => transfer.resize(left, 2 * MiB)),
      (thrown) => thrown instanceof Failure && /was not stored in order/.test(thrown.message),
    );
    change(at('b'), (left, transfer) => transfer.write(left, Buffer.alloc(512, 2), 512));
    qemuImg('check', '-q', '-f', 'qcow2', at('b'));
    assert.throws(() => qemuImg('resize', '-q', '-f', 'qcow2', at('b'), '2M'), 'as with qemu');
  });
});

for (const isRaw of [false, true]) {
  test(`a disk in a ${isRaw ? 'raw' : 'separate'} data file is resized`, peers, () => {
    inFolder((at) => {
      const how = `data_file=${at('data')},data_file_raw=${isRaw ? 'on' : 'off'}`;
      qemuImg('create', '-q', '-f', 'qcow2', '-o', how, at('a'), '5M');
      io(at('a'), 'write -P 7 0 5M');
      const holds = (sizeBytes: number, kept: number): void => {
        const rest = sizeBytes > kept ? [`read -P 0 ${kept} ${sizeBytes - kept}`] : [];
        io(at('a'), `read -P 7 0 ${kept}`, ...rest);
        qemuImg('check', '-q', '-f', 'qcow2', at('a'));
        assert.equal(
          JSON.parse(qemuImg('info', '--output=json', at('a')))['virtual-size'],
          sizeBytes,
        );
        if (isRaw) assert.equal(statSync(at('data')).size, sizeBytes);
        if (isRaw) qemuImg('compare', '-q', '-f', 'raw', '-F', 'qcow2', at('data'), at('a'));
      };
      change(at('a'), (image, transfer) => transfer.resize(image, 9 * MiB));
      holds(9 * MiB, 5 * MiB);
      change(at('a'), (image, transfer) => transfer.resize(image, 3 * MiB + 512));
      holds(3 * MiB + 512, 3 * MiB + 512);
      change(at('a'), (image, transfer) => transfer.resize(image, 5 * MiB));
      holds(5 * MiB, 3 * MiB + 512);
    });
  });
}

for (const options of ['compat=1.1', 'compat=0.10', 'extended_l2=on', 'cluster_size=512']) {
  test(
    `what a larger parent has stays behind the end of a disk that grows: ${options}`,
    peers,
    () => {
      inFolder((at) => {
        qemuImg('create', '-q', '-f', 'qcow2', at('parent'), '6M');
        io(at('parent'), 'write -P 9 0 6M');
        const child = ['create', '-q', '-f', 'qcow2', '-o', options, '-b', 'parent', '-F', 'qcow2'];
        qemuImg(...child, at('a'), String(MiB + 7 * 512));
        change(at('a'), (image, transfer) => transfer.resize(image, 8 * MiB));
        io(
          at('a'),
          `read -P 9 0 ${MiB + 7 * 512}`,
          `read -P 0 ${MiB + 7 * 512} ${7 * MiB - 7 * 512}`,
        );
        qemuImg('check', '-q', '-f', 'qcow2', at('a'));
      });
    },
  );
}
