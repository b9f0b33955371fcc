/** `vbd spec`: what a disk specification, or a guest's whole configuration, means. */
import { readFileSync, type Stats, statSync } from 'node:fs';
import { buildCommand, type StricliProcess } from '@stricli/core';
import { Failure } from '../../base/failure.ts';
import { oneLine } from '../../base/log.ts';
import { type BackendChoice, chooseBackend, type TargetKind } from '../../disk/backend-choice.ts';
import type { Dialect, DiskSpec } from '../../disk/spec.ts';
import { renderSpecFailure, underlined } from '../../disk/spec-failure.ts';
import { parseSpec } from '../../disk/spec-parse.ts';
import { libxlFields } from '../../disk/spec-print.ts';
import { parseVdev } from '../../disk/vdev.ts';
import { lineOf, parseXlConfig } from '../../disk/xl-config.ts';

export interface SpecFlags {
  readonly json?: boolean;
  /** Path of a guest's configuration. */
  readonly config?: string;
  /** Only what stock libxl knows. */
  readonly xl?: boolean;
  /** Which backend xl chooses on this host. */
  readonly why?: boolean;
}

/** What the command needs of its surroundings. */
export interface SpecContext {
  readonly process: StricliProcess;
}

/** What a run of the command comes to. */
export interface SpecAnswer {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** Reads one disk from `parts`, or the disks of the file that `--config` names, and shows them. */
export function answerSpec(flags: SpecFlags, parts: readonly string[]): SpecAnswer {
  const dialect = flags.xl === true ? 'xl' : 'vbdkit';
  try {
    if (flags.config === undefined) return show(readParts(parts, dialect), flags, dialect);
    if (parts.length > 0) {
      throw new Failure('invalid', 'both --config and a specification are given — give one');
    }
    return show(readConfig(flags.config, dialect), flags, dialect);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    return {
      stdout: '',
      stderr: `${renderSpecFailure(thrown, parts)}\n`,
      exitCode: thrown.exitCode,
    };
  }
}

function readParts(parts: readonly string[], dialect: Dialect): DiskSpec {
  if (parts.length > 0) return parseSpec(parts, dialect);
  throw new Failure(
    'invalid',
    'no disk is given — write a specification such as /srv/a.img,raw,xvda, or --config FILE',
  );
}

function readConfig(path: string, dialect: Dialect): DiskSpec[] {
  const source = readText(path);
  try {
    return parseXlConfig(source, dialect).disks.map(({ spec }) => spec);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    const { line, column, near } = thrown.facts;
    const shown = underlined(lineOf(source, Number(line)), Number(column), String(near));
    const sentence = oneLine(`${path}:${line}:${column}: ${thrown.message}`);
    throw new Failure(thrown.kind, `${sentence}\n${shown}`);
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (thrown) {
    const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '';
    throw new Failure(
      code === 'ENOENT' ? 'not-found' : 'io',
      `${path} cannot be read (${code}) — name a guest's configuration file`,
      { path },
      thrown,
    );
  }
}

function show(
  disks: DiskSpec | readonly DiskSpec[],
  flags: SpecFlags,
  dialect: Dialect,
): SpecAnswer {
  const all = Array.isArray(disks) ? disks : [disks];
  const choose = flags.why === true ? choiceOf : (): undefined => undefined;
  if (flags.json !== true) {
    const lists = all.map((spec) => listing(spec, dialect) + reasons(choose(spec)));
    return { stdout: lists.join('\n') || 'no disks\n', stderr: '', exitCode: 0 };
  }
  const fields = all.map((spec) => {
    const choice = choose(spec);
    return { ...libxlFields(spec, dialect), ...(choice && { choice }) };
  });
  const value = Array.isArray(disks) ? fields : fields[0];
  return { stdout: `${JSON.stringify(value, undefined, 2)}\n`, stderr: '', exitCode: 0 };
}

/** What xl would choose here and now. @throws Failure invalid | not-found | denied */
function choiceOf(spec: DiskSpec): BackendChoice {
  const driverDomain = spec.backend !== undefined && spec.backend !== '0';
  return chooseBackend(spec, {
    kind: driverDomain ? 'unknown' : kindOf(spec.target ?? ''),
    driverDomain,
  });
}

function kindOf(target: string): TargetKind {
  const path = target.startsWith('/') ? target : `/dev/${target}`;
  const found = look(path);
  if (found === undefined) return 'missing';
  if (found.isBlockDevice()) return 'block';
  if (found.isFile()) return 'file';
  return found.isCharacterDevice() ? 'character' : 'other';
}

function look(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (thrown) {
    throw new Failure('denied', `${path} cannot be looked at — run as root`, { path }, thrown);
  }
}

function reasons(choice: BackendChoice | undefined): string {
  const rows = choice?.verdicts.map(
    ({ backend, fits, reason }) =>
      `${(fits ? 'xl chooses' : 'not').padEnd(15)} ${backend}: ${reason}\n`,
  );
  return rows?.join('') ?? '';
}

const accessNames = {
  r: 'read only',
  w: 'read and write',
  'w!': 'read and write, shared',
} as const;

/** A line per thing that was said, and those that every disk has. */
function listing(spec: DiskSpec, dialect: Dialect): string {
  const rows: [string, string | number | undefined][] = [
    ['vdev', vdevText(spec.vdev, dialect)],
    ['target', spec.target || 'none'],
    ['format', spec.format],
    ['access', accessNames[spec.access]],
    ['device', spec.cdrom ? 'cdrom' : 'disk'],
    ['backend', spec.backend],
    ['backendtype', spec.backendType],
    ['script', spec.script === '' ? 'none' : spec.script],
    ['direct-io-safe', spec.directIoSafe ? 'yes' : undefined],
    ['discard', yesNo(spec.discard)],
    ['trusted', yesNo(spec.trusted)],
    ['specification', spec.specification],
    ['grant_usage', yesNo(spec.grantUsage)],
    ['colo', yesNo(spec.colo)],
    ['colo-host', spec.coloHost],
    ['colo-port', spec.coloPort],
    ['colo-export', spec.coloExport],
    ['active-disk', spec.activeDisk],
    ['hidden-disk', spec.hiddenDisk],
  ];
  return rows
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name.padEnd(15)} ${oneLine(String(value))}\n`)
    .join('');
}

function yesNo(value: boolean | undefined): string | undefined {
  return value === undefined ? undefined : value ? 'yes' : 'no';
}

function vdevText(vdev: string, dialect: Dialect): string {
  try {
    return `${vdev} (${parseVdev(vdev, dialect).number})`;
  } catch (thrown) {
    if (thrown instanceof Failure) return `${vdev} (${thrown.message})`;
    throw thrown;
  }
}

function runSpec(this: SpecContext, flags: SpecFlags, ...parts: string[]): void {
  const answer = answerSpec(flags, parts);
  this.process.stdout.write(answer.stdout);
  this.process.stderr.write(answer.stderr);
  if (answer.exitCode !== 0) this.process.exitCode = answer.exitCode;
}

export const specCommand = buildCommand({
  func: runSpec,
  parameters: {
    flags: {
      json: {
        kind: 'boolean',
        brief: "Print libxl's fields as JSON",
        optional: true,
        withNegated: false,
      },
      config: {
        kind: 'parsed',
        parse: String,
        brief: "Read every disk of a guest's configuration",
        placeholder: 'FILE',
        optional: true,
      },
      xl: {
        kind: 'boolean',
        brief: 'Refuse what stock libxl does not know',
        optional: true,
        withNegated: false,
      },
      why: {
        kind: 'boolean',
        brief: 'Say which backend xl chooses on this host, and why not others',
        optional: true,
        withNegated: false,
      },
    },
    positional: {
      kind: 'array',
      parameter: { brief: 'Together, one disk', parse: String, placeholder: 'SPEC-PART' },
    },
  },
  docs: {
    brief: 'Show what a disk specification means',
    fullDescription:
      'Reads a disk specification as xl-disk-configuration(5) has it; several parts make one disk, as with xl block-attach. Beyond it, the formats vmdk, vhdx and qcow1 and an empty script= are understood, unless --xl is given.',
  },
});
