/** Disks that outgrow the block table of their VHDX: for qemu, too, and at whatever moment the power goes. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createFileTable } from '../../src/image/file-table.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer, type Transfer } from '../../src/image/transfer.ts';
import { needsProgram } from '../peers.ts';
import { searching } from '../property.ts';
import type { Command, ImageKind } from '../suites/image-programs.ts';
import { readFolder } from '../suites/memory-files.ts';
import { type Beginning, playPowerCuts } from '../suites/play-power-cut.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

function inFolder(run: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'vbdkit-vhdx-'));
  try {
    run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function create(path: string, kind: Omit<ImageKind, 'name' | 'edges'>): void {
  using files = createFileTable();
  createImage(path, { ...kind, passphrase: undefined, files });
}

function change(path: string, work: (image: Image, transfer: Transfer) => void): void {
  using files = createFileTable();
  const transfer = createTransfer(files);
  const image = openImage(path, { format: 'vhdx', writable: true, files });
  work(image, transfer);
  transfer.close(image);
}

const kinds = [
  ['dynamic', { block_size: '1M' }, [200 * GiB, 200 * GiB + 4096, 700 * GiB]],
  ['of sectors of 4096 bytes', { block_size: '1M', logical_sector_size: '4096' }, [300 * GiB]],
  ['fixed', { subformat: 'fixed', block_size: '1M' }, [9 * MiB, 10 * MiB + 512, 33 * MiB]],
] as const;

for (const [name, options, sizes] of kinds) {
  test(
    `a VHDX that is ${name} grows past its block table`,
    needsProgram('qemu-img', 'qemu-io'),
    () => {
      inFolder((folder) => {
        const path = join(folder, 'a.vhdx');
        create(path, { format: 'vhdx', sizeBytes: 8 * MiB, options });
        let last = 8 * MiB;
        const written: [at: number, byte: number][] = [];
        for (const [index, size] of [last, ...sizes].entries()) {
          change(path, (image, transfer) => {
            transfer.resize(image, size);
            assert.equal(image.sizeBytes, size);
            for (const at of [last - 4096, size - 4096]) {
              transfer.write(image, Buffer.alloc(4096, index + 1), at);
              written.push([at, index + 1]);
            }
            const view = Buffer.alloc(4096);
            transfer.read(image, view, size - 4096);
            assert.ok(view.equals(Buffer.alloc(4096, index + 1)));
          });
          last = size;
        }
        using files = createFileTable();
        using image = openImage(path, { format: 'vhdx', writable: false, files });
        assert.deepEqual(
          image.check().findings.map(({ says }) => says),
          [],
        );
        assert.ok(statSync(path).size < 100 * MiB);
        // qemu knows no sectors of 4096 bytes.
        if (name === 'of sectors of 4096 bytes') return;
        execFileSync('qemu-img', ['check', '-q', '-f', 'vhdx', path]);
        // What was written last counts where it was written twice.
        const now = new Map(written);
        const reads = [...now].flatMap(([at, byte]) => ['-c', `read -P ${byte} ${at} 4096`]);
        const said = execFileSync('qemu-io', ['-r', '-f', 'vhdx', ...reads, path], {
          encoding: 'utf8',
        });
        assert.ok(!said.includes('failed'), said);
      });
    },
  );
}

const cuts = [
  ['dynamic', { block_size: '1M' }, 140 * GiB, 300 * GiB],
  ['fixed', { subformat: 'fixed', block_size: '1M' }, 4 * MiB, 7 * MiB],
] as const;

for (const [name, options, larger, largest] of cuts) {
  test(`power may go while the table of a VHDX that is ${name} moves`, (t) => {
    const kind: ImageKind = {
      name,
      format: 'vhdx',
      options,
      sizeBytes: 3 * MiB + 8192,
      edges: [MiB],
      resizes: 'grow',
    };
    const write = (at: number): Command => ({ do: 'write', at, lengthBytes: 4096 });
    const program: Command[] = [
      write(MiB - 2048),
      { do: 'flush' },
      write(2 * MiB),
      { do: 'resize', sizeBytes: larger },
      write(larger - 4096),
      write(0),
      { do: 'flush' },
      { do: 'discard', at: 2 * MiB, lengthBytes: MiB },
      { do: 'resize', sizeBytes: largest },
      write(largest - 8192),
      { do: 'reopen' },
      write(4096),
    ];
    let states = 0;
    inFolder((folder) => {
      const path = join(folder, 'disk');
      create(path, kind);
      const beginning: Beginning = { path, files: readFolder(folder), tags: new Map() };
      const { seed, interruptAfterTimeLimit } = searching(t, 1, 2500);
      const end = performance.now() + interruptAfterTimeLimit;
      for (let tries = 0; tries === 0 || performance.now() < end; tries++) {
        states += playPowerCuts(kind, beginning, program, seed + tries);
      }
    });
    t.diagnostic(`${states} states were tried`);
  });
}
