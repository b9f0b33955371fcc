/** The nodes of a disk: as libxl writes them, and as a real Xen was seen to get them. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { diskPaths, libxlNodes, type NodeOptions } from '../../src/disk/libxl-nodes.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';

const options: NodeOptions = {
  domid: 5,
  devid: 51728,
  backendDomid: 0,
  kind: 'vbd',
  scriptDir: '/etc/xen/scripts',
  protocol: 'x86_64-abi',
};

/** A line per write: `path value`, and its permissions as `n5 r0`. */
function lines(text: string, changes: Partial<NodeOptions> = {}): string[] {
  return libxlNodes(parseSpec([text]), { ...options, ...changes }).flatMap((node) => [
    `${node.path} ${node.value}`.trimEnd(),
    ...(node.permissions === undefined
      ? []
      : [`${node.path} ${node.permissions.map((p) => p.access + p.domid).join(' ')}`]),
  ]);
}

test('a raw file is handed over in full', () => {
  const front = '/local/domain/5/device/vbd/51728';
  const back = '/local/domain/0/backend/vbd/5/51728';
  const copy = '/libxl/5/device/vbd/51728';
  const values = [
    'params /srv/a.img',
    'script /etc/xen/scripts/block',
    'frontend-id 5',
    'online 1',
    'removable 0',
    'bootable 1',
    'state 1',
    'dev xvdb',
    'type phy',
    'mode w',
    'device-type disk',
    'discard-enable 1',
    'specification xen',
  ];
  assert.deepEqual(lines('/srv/a.img,raw,xvdb,w'), [
    `${copy}/frontend ${front}`,
    `${copy}/backend ${back}`,
    front,
    `${front} n5 r0`,
    `${front}/backend ${back}`,
    `${front}/backend-id 0`,
    `${front}/backend-id n5 r0`,
    `${front}/state 1`,
    `${front}/state n5 r0`,
    `${front}/virtual-device 51728`,
    `${front}/virtual-device n5 r0`,
    `${front}/device-type disk`,
    `${front}/device-type n5 r0`,
    `${front}/trusted 1`,
    `${front}/trusted n5 r0`,
    `${front}/protocol x86_64-abi`,
    `${front}/protocol n5 r0`,
    back,
    `${back} n0 r5`,
    `${back}/frontend ${front}`,
    ...values.map((line) => `${back}/${line}`),
    ...values.map((line) => `${copy}/${line}`),
  ]);
});

test('each thing that is said changes its nodes', () => {
  const back = (kind: string): string => `/local/domain/0/backend/${kind}/5/51728`;
  const front = '/local/domain/5/device/vbd/51728';
  const rest = 'vdev=xvdb,target=/i';
  /** A specification, changed options, lines that are there, and beginnings that are not. */
  const rows: readonly [string, Partial<NodeOptions>, string[], string[]][] = [
    [`access=r,${rest}`, {}, [`${back('vbd')}/mode r`, `${back('vbd')}/discard-enable 0`], []],
    [`access=r,discard,${rest}`, {}, [`${back('vbd')}/discard-enable 1`], []],
    [`no-discard,${rest}`, {}, [`${back('vbd')}/discard-enable 0`], []],
    [`untrusted,${rest}`, {}, [`${front}/trusted 0`], []],
    [`direct-io-safe,${rest}`, {}, [`${back('vbd')}/direct-io-safe 1`], []],
    [rest, {}, [], [`${back('vbd')}/direct-io-safe`, `${back('vbd')}/colo`]],
    [rest, { protocol: undefined }, [], [`${front}/protocol`]],
    [`script=block-drbd,${rest}`, {}, [`${back('vbd')}/script /etc/xen/scripts/block-drbd`], []],
    [`script=./x,${rest}`, {}, [`${back('vbd')}/script ./x`], []],
    [`script=,${rest}`, {}, [], [`${back('vbd')}/script`]],
    [
      `cdrom,${rest}`,
      {},
      [
        `${back('vbd')}/device-type cdrom`,
        `${back('vbd')}/removable 1`,
        `${back('vbd')}/mode r`,
        `${front}/device-type cdrom`,
      ],
      [],
    ],
    [
      `format=vhd,${rest}`,
      { kind: 'vbd3' },
      [
        `${back('vbd3')}/params vhd:/i`,
        `${back('vbd3')}/script /etc/xen/scripts/block-tap`,
        `${back('vbd3')}/type vbd3`,
      ],
      [],
    ],
    [rest, { kind: 'vbd3' }, [`${back('vbd3')}/params aio:/i`], []],
    [
      rest,
      { kind: 'qdisk' },
      [`${back('qdisk')}/params aio:/i`, `${back('qdisk')}/type qdisk`],
      [`${back('qdisk')}/script`],
    ],
    [`format=qcow,${rest}`, { kind: 'qdisk' }, [`${back('qdisk')}/params qcow:/i`], []],
    ['cdrom,vdev=xvdb', { kind: 'qdisk' }, [`${back('qdisk')}/params aio:`], []],
    [
      `colo,colo-host=h,colo-port=9,colo-export=e,active-disk=/a,hidden-disk=/h,${rest}`,
      { kind: 'qdisk' },
      ['colo-host h', 'colo-port 9', 'colo-export e', 'active-disk /a', 'hidden-disk /h'].map(
        (line) => `${back('qdisk')}/${line}`,
      ),
      [],
    ],
    [
      rest,
      { backendDomid: 3 },
      [
        '/local/domain/3/backend/vbd/5/51728 n3 r5',
        `${front} n5 r3`,
        `${front}/backend-id 3`,
        `${front}/state n5 r3`,
      ],
      ['/local/domain/0/'],
    ],
  ];
  for (const [text, changes, there, absent] of rows) {
    const all = lines(text, changes);
    assert.deepEqual(
      there.filter((line) => !all.includes(line)),
      [],
      text,
    );
    assert.deepEqual(
      all.filter((line) => absent.some((start) => line.startsWith(start))),
      [],
      text,
    );
  }
});

test('what libxl cannot say is refused', () => {
  const rows: readonly [string, Partial<NodeOptions>, RegExp][] = [
    ['specification=virtio,vdev=xvdb,target=/i', {}, /no virtio disks/],
    ['/i,vmdk,xvdb', { kind: 'qdisk' }, /script=block-vbd,target=vmdk:\/i$/],
    ['/i,vhdx,xvdb', { kind: 'vbd3' }, /no name for the format vhdx/],
  ];
  for (const [text, changes, message] of rows) {
    assert.throws(() => lines(text, changes), { kind: 'unsupported', message }, text);
  }
});

const traces = join(import.meta.dirname, '..', '..', '..', 'shared/reference/xen-traces');

/** A trace of the writes of a real Xen, the disk in it, and where that disk went. */
const traced: readonly [string, string, Partial<NodeOptions>][] = [
  ['t1-file-phy', '/d/a.img,raw,xvda,w', { domid: 2 }],
  ['t2-blockdev-phy', '/dev/vdb,raw,xvda,w', { domid: 1 }],
  ['t3-readonly', '/d/b.img,raw,xvda,r', { domid: 3 }],
  ['t6-hotplug', '/d/b.img,raw,xvdb,w', { domid: 9, devid: 51728 }],
  ['t7-qdisk', '/d/a.img,raw,xvda,w', { domid: 11, kind: 'qdisk' }],
  ['t16-driverdomain', '/d/x.img,raw,xvda,w', { domid: 3, backendDomid: 2 }],
  ['trixie/t19-tap-blocktap', '/d/x.vhd,vhd,xvda,w', { domid: 8, kind: 'vbd3' }],
  ['trixie/t20-qdisk-shellstub', '/d/x.vhd,vhd,xvda,w', { domid: 13, kind: 'qdisk' }],
];

for (const [name, text, changes] of traced) {
  const file = join(traces, `${name}.writes.txt`);
  const skip = existsSync(file) ? false : 'no traces of a real Xen beside this checkout';
  test(`a real Xen was seen to write the same nodes in the same order: ${name}`, { skip }, () => {
    const place = { ...options, devid: 51712, ...changes };
    const folders = Object.values(diskPaths(place));
    const seen = readFileSync(file, 'utf8')
      .split('\n')
      .map(
        (line) => /^ *[\d.]+ libxl#1 +(WRITE|MKDIR|PERMS) +(.*)$/.exec(line)?.[2]?.trimEnd() ?? '',
      )
      .filter((line) => folders.some((folder) => `${line} `.startsWith(folder)));
    const wanted = lines(text, place);
    assert.deepEqual(seen.slice(0, wanted.length), wanted);
  });
}
