/** `vbd check`: whether an image's metadata is sound, with qemu-img's exit codes; -r mends it. */
import { buildCommand, type Command } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { oneLine } from '../../base/log.ts';
import { checkImage, type CheckResult, type RepairWhat } from '../../image/check.ts';
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

/** qemu-img's exit codes. */
const exit = { sound: 0, notChecked: 1, corrupt: 2, leaks: 3, unsupported: 63 } as const;

interface CheckFlags extends ImageFlags, OutputFlags {
  readonly repair?: Exclude<RepairWhat, 'none'>;
  readonly quiet: boolean;
}

export const checkCommand: Command<CliContext> = buildCommand({
  docs: {
    brief: "Say whether an image's metadata is sound",
    fullDescription:
      'Exit status: 0 sound, 1 not checked, 2 corrupt, 3 leaks only, 63 the format has nothing to check.',
  },
  parameters: {
    flags: {
      format: imageFlags.format,
      output: imageFlags.output,
      json: imageFlags.json,
      repair: {
        kind: 'enum',
        values: ['leaks', 'all'],
        brief: 'Mend wasted space, or all that can be mended',
        optional: true,
      },
      quiet: imageFlags.quiet,
      forceShare: imageFlags.forceShare,
      allowPath: imageFlags.allowPath,
    },
    aliases: { f: 'format', r: 'repair', q: 'quiet', U: 'forceShare' },
    positional: { kind: 'tuple', parameters: [imageArgument] },
  },
  func(this: CliContext, flags: CheckFlags, path: string) {
    this.process.exitCode = withCodes(this, () => check(this, flags, path));
  },
});

/** qemu-img's exit code where there is nothing to check, or it could not be done. */
export function withCodes(context: CliContext, run: () => number): number {
  try {
    return run();
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    context.process.stderr.write(`vbd: ${thrown.message}\n`);
    return thrown.kind === 'unsupported' ? exit.unsupported : exit.notChecked;
  }
}

/** @returns the exit code */
function check(context: CliContext, flags: CheckFlags, path: string): number {
  using files = createFileTable();
  const { repair = 'none' } = flags;
  const open = (writable: boolean): Image =>
    openByFlags(path, flags, files, writable, { locked: true, repairs: repair !== 'none' });
  const result = checkImage(open, createTransfer(files), repair);
  if (wantsJson(flags)) writeJson(context, jsonOf(path, result));
  else if (!flags.quiet) context.process.stdout.write(reportText(result));
  return exitCodeOf(result.report.findings);
}

/** qemu-img's exit code for what was found. */
export function exitCodeOf(findings: readonly Finding[]): number {
  if (count(findings, 'corruption') > 0) return exit.corrupt;
  return count(findings, 'leak') > 0 ? exit.leaks : exit.sound;
}

/** How many clusters, blocks or entries are so. */
function count(findings: readonly Finding[], kind: Finding['kind']): number {
  return findings
    .filter((finding) => finding.kind === kind)
    .reduce((sum, finding) => sum + (finding.count ?? 1), 0);
}

/** The fields of qemu-img's `check --output=json`, and each finding's sentence. */
function jsonOf(path: string, { format, report, mended }: CheckResult): object {
  return {
    filename: path,
    format,
    'check-errors': 0,
    corruptions: count(report.findings, 'corruption'),
    leaks: count(report.findings, 'leak'),
    'corruptions-fixed': count(mended, 'corruption'),
    'leaks-fixed': count(mended, 'leak'),
    'total-clusters': report.totalClusters,
    'allocated-clusters': report.allocatedClusters,
    'fragmented-clusters': report.fragmentedClusters,
    'compressed-clusters': report.compressedClusters,
    'image-end-offset': report.endAt,
    findings: report.findings.map(({ kind, says, count = 1 }) => ({ kind, says, count })),
  };
}

/** qemu-img's words, for scripts that look for them. */
function reportText({ report, mended }: CheckResult): string {
  const { findings, totalClusters: all } = report;
  const found = findings.map(({ kind, says }) => `${kind}: ${oneLine(says)}\n`).join('');
  const corruptions = count(findings, 'corruption');
  const leaks = count(findings, 'leak');
  let text = mendedText(mended) + found;
  if (corruptions > 0) {
    text += `\n${corruptions} errors were found on the image.\n`;
    text += 'Data may be corrupted, or further writes to the image may corrupt it.\n';
  }
  if (leaks > 0) {
    text += `\n${leaks} leaked clusters were found on the image.\n`;
    text += 'This means waste of disk space, but no harm to data.\n';
  }
  if (corruptions + leaks === 0) text += 'No errors were found on the image.\n';
  if (all > 0) {
    const share = (part: number, whole: number): string =>
      `${((part / Math.max(1, whole)) * 100).toFixed(2)}%`;
    const { allocatedClusters: allocated, fragmentedClusters, compressedClusters } = report;
    const fragmented = share(fragmentedClusters ?? 0, allocated);
    const compressed = share(compressedClusters ?? 0, allocated);
    text += `${allocated}/${all} = ${share(allocated, all)} allocated, `;
    text += `${fragmented} fragmented, ${compressed} compressed clusters\n`;
  }
  if (report.endAt !== undefined) text += `Image end offset: ${report.endAt}\n`;
  return text;
}

function mendedText(mended: readonly Finding[]): string {
  if (mended.length === 0) return '';
  const leaks = count(mended, 'leak');
  const corruptions = count(mended, 'corruption');
  return [
    'The following inconsistencies were found and repaired:\n',
    `    ${leaks} leaked clusters`,
    `    ${corruptions} corruptions\n`,
    '',
  ].join('\n');
}
