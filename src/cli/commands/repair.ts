/** `vbd repair`: mends what a check finds, or says what it would do; the exit codes are those of check. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { oneLine } from '../../base/log.ts';
import { checkImage, isChosen, type RepairWhat } from '../../image/check.ts';
import { createFileTable } from '../../image/file-table.ts';
import type { Finding, Image } from '../../image/image.ts';
import { createTransfer } from '../../image/transfer.ts';
import { type CliContext, writeJson } from '../context.ts';
import {
  imageArgument,
  imageFlags,
  type ImageFlags,
  openByFlags,
  type OutputFlags,
  wantsJson,
} from '../image-flags.ts';
import { exitCodeOf, withCodes } from './check.ts';

interface RepairFlags extends ImageFlags, OutputFlags {
  readonly dryRun: boolean;
  readonly leaks: boolean;
  readonly quiet: boolean;
}

const off = { kind: 'boolean', default: false, withNegated: false } as const;

export const repairCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Mend an image's metadata, as far as that can be",
    fullDescription: [
      'Bytes of the disk are never changed; what was lost is not brought back. Exit status, of what is',
      'left: 0 nothing, 1 not checked, 2 corrupt, 3 leaks only, 63 the format has nothing to mend.',
    ].join('\n'),
  },
  parameters: {
    flags: {
      format: imageFlags.format,
      output: imageFlags.output,
      json: imageFlags.json,
      dryRun: { ...off, brief: 'Change nothing, and say what would be done' },
      leaks: { ...off, brief: 'Only give back wasted space' },
      quiet: imageFlags.quiet,
      forceShare: {
        ...imageFlags.forceShare,
        brief: 'With --dry-run: also while someone writes to it',
      },
      allowPath: imageFlags.allowPath,
    },
    aliases: { f: 'format', n: 'dryRun', q: 'quiet', U: 'forceShare' },
    positional: { kind: 'tuple', parameters: [imageArgument] },
  },
  func(this: CliContext, flags: RepairFlags, path: string) {
    this.process.exitCode = withCodes(this, () => repair(this, flags, path));
  },
});

/** @returns the exit code */
function repair(context: CliContext, flags: RepairFlags, path: string): number {
  if (flags.forceShare && !flags.dryRun) {
    throw new Failure('invalid', 'what others write to is not mended — -U goes with --dry-run');
  }
  using files = createFileTable();
  const open = (writable: boolean): Image =>
    openByFlags(path, flags, files, writable, { locked: true, repairs: true });
  const what: RepairWhat = flags.leaks ? 'leaks' : 'all';
  const { report, mended } = checkImage(open, createTransfer(files), flags.dryRun ? 'none' : what);
  const told = flags.dryRun ? report.findings.filter((one) => isChosen(one, what)) : mended;
  const left = report.findings.filter((one) => !told.includes(one));
  if (wantsJson(flags)) {
    const list = flags.dryRun ? { 'would-mend': told.map(entryOf) } : { mended: told.map(entryOf) };
    writeJson(context, { filename: path, ...list, left: left.map(entryOf) });
  } else if (!flags.quiet) {
    context.process.stdout.write(textOf(told, left, flags.dryRun));
  }
  return exitCodeOf(report.findings);
}

function entryOf({ kind, says, count = 1, repair }: Finding): object {
  return { kind, says, count, ...(repair === undefined ? {} : { repair: repair.says }) };
}

function textOf(told: readonly Finding[], left: readonly Finding[], isDry: boolean): string {
  if (told.length + left.length === 0) return 'There is nothing to mend.\n';
  const line = (word: string, { says, repair }: Finding): string => {
    const how = repair === undefined ? '' : ` — ${repair.says}`;
    return `${word}: ${oneLine(says)}${how}\n`;
  };
  const word = isDry ? 'would be mended' : 'mended';
  const stays = (finding: Finding): string =>
    line(finding.repair === undefined ? 'cannot be mended' : 'left as it is', finding);
  return told.map((one) => line(word, one)).join('') + left.map(stays).join('');
}
