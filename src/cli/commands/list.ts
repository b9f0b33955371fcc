/** `vbd list`: the disks of guests, as a table, as trees of files, or as JSON. */
import { buildCommand, type Command } from '@stricli/core';
import type { DiskView } from '../../daemon/api/shapes.ts';
import { type CliContext, writeJson } from '../context.ts';
import { formatTrees, type Tree } from '../tree.ts';
import {
  type ColumnFlags,
  columnFlags,
  type Columns,
  columnTable,
  describeColumns,
  guestWord,
  isGuest,
  jsonFlag,
} from '../words.ts';

const columns: Columns<DiskView> = {
  guest: { heading: 'Guest', brief: 'name of the guest', of: ({ guest }) => guest },
  domid: { heading: 'Domid', brief: 'number of the guest', of: ({ domid }) => domid },
  vdev: { heading: 'Vdev', brief: 'the disk, as the guest has it', of: ({ vdev }) => vdev },
  devid: { heading: 'Devid', brief: 'the same as a number', of: ({ devid }) => devid },
  kind: { heading: 'Kind', brief: "the backend's kind: vbd, vbd3, qdisk", of: ({ kind }) => kind },
  state: {
    heading: 'State',
    brief: 'attached, paused, refused, waiting, closing, or foreign: not ours',
    of: ({ state }) => state,
  },
  mode: { heading: 'Mode', brief: 'r, w, or w! for shared writing', of: ({ mode }) => mode },
  device: {
    heading: 'Device',
    brief: 'what the backend was given; ring where vbd-tap is the backend',
    of: ({ device }) => device,
  },
  shared: {
    heading: 'Shared',
    brief: 'how many disks of guests have the same file or device',
    of: ({ sharers }) => sharers,
  },
  path: { heading: 'Path', brief: 'the file or device', of: ({ path }) => path },
  error: { heading: 'Error', brief: 'why it is refused or paused', of: ({ error }) => error },
  warning: {
    heading: 'Warning',
    brief: 'what will go wrong; without -o it is told after the table',
    of: ({ warning }) => warning,
  },
};
const usual = ['guest', 'domid', 'vdev', 'state', 'mode', 'device', 'shared', 'path'];

interface ListFlags extends ColumnFlags {
  readonly json: boolean;
  readonly tree: boolean;
}

export const listCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: 'List the disks of all guests, or of some',
    fullDescription: describeColumns(columns),
  },
  parameters: {
    flags: {
      json: jsonFlag,
      tree: {
        kind: 'boolean',
        brief: "Show each guest's disks, and below them their files",
        default: false,
        withNegated: false,
      },
      ...columnFlags(columns),
    },
    aliases: { o: 'columns' },
    positional: { kind: 'array', parameter: guestWord },
  },
  async func(this: CliContext, flags: ListFlags, ...guests: string[]) {
    const { disks } = await this.client().ask('GET /v1/disks');
    const wanted = disks.filter(
      (disk) => guests.length === 0 || guests.some((guest) => isGuest(disk, guest)),
    );
    if (flags.json) return writeJson(this, wanted);
    const text = flags.tree
      ? formatTrees(treesOf(wanted))
      : columnTable(columns, usual, wanted, flags);
    this.process.stdout.write(text);
    if (flags.columns !== undefined) return;
    for (const { guest, domid, vdev, warning } of wanted) {
      // An older vbdd says nothing of warnings.
      if ((warning ?? null) !== null)
        this.process.stderr.write(`${guest ?? domid} ${vdev}: ${warning}\n`);
    }
  },
});

/** A guest, its disks, their files: each image above its parent. */
function treesOf(disks: readonly DiskView[]): Tree[] {
  const byGuest = Map.groupBy(disks, ({ domid }) => domid);
  return [...byGuest.values()].map((own) => ({
    text: own[0]?.guest ?? String(own[0]?.domid),
    below: own.map((disk) => ({ text: `${disk.vdev} ${disk.state}`, below: filesBelow(disk) })),
  }));
}

function filesBelow({ files, path }: DiskView): Tree[] {
  if (files.length === 0) return path === '' ? [] : [{ text: path, below: [] }];
  return files.reduceRight<Tree[]>(
    (below, file) => [{ text: `${file.path} (${file.mode})`, below }],
    [],
  );
}
