/** Everything that reads what strangers wrote: inputs that are right, from which wrong ones are made. */
import { mkdtempDisposableSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseSize } from '../../src/base/units.ts';
import {
  parseBackendNodes,
  parseBackendPath,
  parseDiskName,
} from '../../src/disk/backend-nodes.ts';
import { frontendNames, parseFrontendNodes } from '../../src/disk/frontend-nodes.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';
import { parseVdev } from '../../src/disk/vdev.ts';
import { parseXlConfig } from '../../src/disk/xl-config.ts';
import { checkImage } from '../../src/image/check.ts';
import { createFileTable } from '../../src/image/file-table.ts';
import type { ImageFormat } from '../../src/image/formats.ts';
import type { Image } from '../../src/image/image.ts';
import { createImage, openImage } from '../../src/image/open.ts';
import { createTransfer } from '../../src/image/transfer.ts';
import { parseDescriptor } from '../../src/image/vmdk/descriptor.ts';
import { readContextQueries, readExportChoice } from '../../src/nbd/options.ts';
import { parseMountinfo, parseSwaps } from '../../src/sys/mounts.ts';
import { parseDirectoryPart, parsePermission } from '../../src/xenstore/payload.ts';
import { createMessageParser, createMessageWriter } from '../../src/xenstore/wire.ts';

export interface Target {
  readonly name: string;
  readonly seeds: readonly Uint8Array[];
  /** Returns, or throws a Failure; anything else is a finding. */
  feed(input: Uint8Array): void;
}

const SIZE_BYTES = 1 << 20;

function texts(name: string, seeds: readonly string[], feed: (text: string) => void): Target {
  return {
    name,
    seeds: seeds.map((seed) => Buffer.from(seed)),
    feed: (input) => feed(Buffer.from(input).toString()),
  };
}

function images(format: ImageFormat): Target {
  using folder = mkdtempDisposableSync(join(tmpdir(), 'vbdkit-fuzz-'));
  const path = join(folder.path, 'seed');
  using files = createFileTable();
  createImage(path, { format, sizeBytes: SIZE_BYTES, options: {}, files });
  const image = openImage(path, { format, writable: true, files });
  const transfer = createTransfer(files);
  transfer.write(image, new Uint8Array(4096).fill(7), 65_536);
  transfer.close(image);
  const seed = readFileSync(path);
  return {
    name: format,
    seeds: [seed],
    feed(input) {
      using place = mkdtempDisposableSync(join(tmpdir(), 'vbdkit-fuzz-'));
      const fed = join(place.path, 'image');
      writeFileSync(fed, input);
      using fedFiles = createFileTable();
      const reader = createTransfer(fedFiles);
      const open = (writable: boolean): Image =>
        openImage(fed, { format, writable, files: fedFiles });
      checkImage(open, reader, 'none');
      const opened = open(false);
      const into = new Uint8Array(65_536);
      const endBytes = Math.min(opened.sizeBytes, SIZE_BYTES);
      for (let at = 0; at + into.length <= endBytes; at += into.length)
        reader.read(opened, into, at);
    },
  };
}

function message(): Uint8Array {
  const writer = createMessageWriter();
  writer.add(2, 1, 0, '/local/domain/1\0');
  writer.add(11, 2, 7, 'a\0b');
  return writer.take();
}

/** The string's length, the string, then counts and lengths as an NBD client sends them. */
const nbdOption = Buffer.concat([
  Buffer.from([0, 0, 0, 4]),
  Buffer.from('disk'),
  Buffer.from([0, 0, 0, 1, 0, 0, 0, 15]),
  Buffer.from('base:allocation'),
]);

/** Names and values in turn, one to a line. */
function nodesOf(text: string): Record<string, string | undefined> {
  const lines = text.split('\n');
  return Object.fromEntries(lines.map((line) => line.split('=', 2) as [string, string?]));
}

export function fuzzTargets(): Target[] {
  return [
    texts(
      'specification',
      [
        '/srv/a.img,raw,xvda,rw',
        'format=qcow2,vdev=hda:cdrom,access=ro,script=block-vbd,target=vhd:/srv/a',
      ],
      (text) => parseSpec([text]),
    ),
    texts(
      'xl.cfg',
      ['name = "a"\ndisk = [ "/a,raw,xvda,rw", \'b,,hda,r\' ]\n# c\nvif=[]\n'],
      (text) => parseXlConfig(text),
    ),
    texts('vdev', ['xvda1', 'hdc', 'sdaa15', 'd5p3'], (text) => parseVdev(text)),
    texts('size', ['1.5G', '4096', '2 TiB'], (text) => parseSize(text)),
    texts(
      'backend nodes',
      ['state=4\nonline=1\nparams=/srv/a\nmode=w\nphysical-device=7:a\nhotplug-status=connected'],
      (text) => parseBackendNodes(nodesOf(text)),
    ),
    texts('frontend nodes', [frontendNames.map((name) => `${name}=1`).join('\n')], (text) =>
      parseFrontendNodes(nodesOf(text)),
    ),
    texts('names', ['vbd3-7-51712', 'backend/vbd/7/51712/state'], (text) => {
      parseDiskName(text);
      parseBackendPath(text);
      parsePermission(text);
    }),
    texts(
      'mountinfo',
      ['36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n'],
      (text) => {
        parseMountinfo(text);
        parseSwaps(text);
      },
    ),
    texts(
      'vmdk descriptor',
      [
        '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicSparse"\nRW 2048 SPARSE "a.vmdk" 0\n',
      ],
      (text) => parseDescriptor(Buffer.from(text)),
    ),
    {
      name: 'xenstore messages',
      seeds: [message()],
      feed(input) {
        const parser = createMessageParser(() => {}, 4096);
        for (let at = 0; at < input.length; at += 7)
          parser.feed(Buffer.from(input.subarray(at, at + 7)));
        parseDirectoryPart(Buffer.from(input));
      },
    },
    {
      name: 'nbd options',
      seeds: [nbdOption],
      feed(input) {
        readExportChoice(input);
        readContextQueries(input);
      },
    },
    ...(['vhd', 'vmdk', 'qcow2', 'vhdx'] as const).map(images),
  ];
}
