/**
 * Finds a guest's name and disks in its xl configuration, xl.cfg(5):
 *
 *     file    = [ setting ] { ( newline | ";" ) [ setting ] }
 *     setting = name ( "=" | "+=" ) value
 *     value   = string | number | "[" [ value { "," value } [ "," ] ] "]"
 *
 * with `#` comments to the end of a line, and line breaks anywhere inside brackets.
 */
import { Failure } from '../base/failure.ts';
import { oneLine } from '../base/log.ts';
import type { DiskSpec, Dialect } from './spec.ts';
import { parseSpec } from './spec-parse.ts';

/** A character of the file: line and column, counted from 1. */
export interface FilePlace {
  readonly line: number;
  readonly column: number;
}

export interface ConfigDisk extends FilePlace {
  readonly spec: DiskSpec;
  /** The specification as the file has it. */
  readonly text: string;
}

export interface XlConfig {
  readonly name: string | undefined;
  readonly disks: readonly ConfigDisk[];
}

interface Text {
  readonly kind: 'text';
  readonly text: string;
  /** Where in the file the value begins. */
  readonly at: number;
  /** Where in the file each character of `text` is, and the first one after it. */
  readonly places: readonly number[];
}

interface List {
  readonly kind: 'list';
  readonly items: readonly Value[];
  readonly at: number;
}

type Value = Text | List;

/**
 * Reads the name and the disks of a guest's configuration; of settings given twice, the last counts.
 * @throws Failure invalid, with facts `{line, column, near}`: see `underlined` of spec-failure.ts
 */
export function parseXlConfig(source: string, dialect: Dialect = 'vbdkit'): XlConfig {
  const settings = readSettings(source);
  const name = settings.get('name');
  const disk = settings.get('disk');
  if (disk?.kind === 'text') {
    throw fault(source, disk.at, 'disk is one value, not a list — write disk = [ … ]', disk.text);
  }
  const disks = (disk?.items ?? []).map((item): ConfigDisk => {
    if (item.kind === 'list') {
      throw fault(source, item.at, 'a list stands where a disk should — put it in quotes', '[');
    }
    return { spec: diskOf(source, item, dialect), text: item.text, ...placeOf(source, item.at) };
  });
  return { name: name?.kind === 'text' ? name.text : undefined, disks };
}

/** What is wrong in the specification is shown where it stands in the file. */
function diskOf(source: string, item: Text, dialect: Dialect): DiskSpec {
  try {
    return parseSpec([item.text], dialect);
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    const at = item.places[Number(thrown.facts['column']) - 1] ?? item.at;
    throw fault(source, at, thrown.message, String(thrown.facts['near']));
  }
}

/** The line of a failure's place in the file, for a caret under it. */
export function lineOf(source: string, line: number): string {
  return source.split('\n')[line - 1] ?? '';
}

function placeOf(source: string, at: number): FilePlace {
  const before = source.slice(0, at);
  return { line: before.split('\n').length, column: at - before.lastIndexOf('\n') };
}

function fault(source: string, at: number, message: string, near: string): Failure {
  return new Failure('invalid', message, { ...placeOf(source, at), near });
}

function readSettings(source: string): Map<string, Value> {
  const settings = new Map<string, Value>();
  let at = 0;
  const skip = (pattern: RegExp): void => {
    at += matchAt(pattern, source, at)?.[0].length ?? 0;
  };
  for (;;) {
    skip(/(?:[ \t\n;]|#[^\n]*)*/y);
    if (at === source.length) return settings;
    const name = matchAt(/[a-z][a-z0-9_.]*/y, source, at)?.[0];
    if (name === undefined) throw unexpected(source, at, 'the name of a setting');
    const nameAt = at;
    at += name.length;
    skip(/[ \t]*/y);
    const operator = matchAt(/\+?=/y, source, at)?.[0];
    if (operator === undefined) throw unexpected(source, at, `= after ${name}`);
    at += operator.length;
    skip(/[ \t]*/y);
    const [value, end] = readValue(source, at);
    at = end;
    const before = operator === '+=' ? settings.get(name) : undefined;
    const joined = before === undefined ? value : join(before, value);
    if (joined === undefined) {
      throw fault(source, nameAt, `${name} is a list and a single value — make both lists`, name);
    }
    settings.set(name, joined);
    skip(/[ \t]*(?:#[^\n]*)?/y);
    if (at < source.length && matchAt(/[\n;]/y, source, at) === null) {
      throw unexpected(source, at, `a line break or ; after the value of ${name}`);
    }
  }
}

/** `name += value` after an earlier `name = value`; undefined when one is a list and one is not. */
function join(before: Value, value: Value): Value | undefined {
  if (before.kind === 'list' && value.kind === 'list') {
    return { ...before, items: [...before.items, ...value.items] };
  }
  if (before.kind === 'list' || value.kind === 'list') return undefined;
  const places = [...before.places.slice(0, -1), ...value.places];
  return { ...before, text: before.text + value.text, places };
}

/** No setting of xl nests lists this deep; a broken file may. */
const deepest = 100;

/** The value at `at`, and where it ends. */
function readValue(source: string, at: number, depth = 0): [Value, number] {
  const first = source[at] ?? '';
  if (first === '[') return readList(source, at, depth);
  if (first === '"' || first === "'") return readString(source, at);
  const text = matchAt(/[0-9][0-9a-fx]*/y, source, at)?.[0];
  if (text === undefined) throw unexpected(source, at, 'a quoted text, a number or a list');
  const places = Array.from({ length: text.length + 1 }, (_, index) => at + index);
  return [{ kind: 'text', text, at, places }, at + text.length];
}

function readList(source: string, from: number, depth: number): [List, number] {
  if (depth === deepest) {
    throw fault(source, from, `lists are nested more than ${deepest} deep — use fewer`, '[');
  }
  const items: Value[] = [];
  let at = afterBlanks(source, from + 1);
  while (source[at] !== ']') {
    const [item, end] = readValue(source, at, depth + 1);
    items.push(item);
    at = afterBlanks(source, end);
    if (source[at] === ',') at = afterBlanks(source, at + 1);
    else if (source[at] !== ']') throw unexpected(source, at, 'a comma or ] in the list');
  }
  return [{ kind: 'list', items, at: from }, at + 1];
}

function afterBlanks(source: string, at: number): number {
  return at + (matchAt(/(?:[ \t\n]|#[^\n]*)*/y, source, at)?.[0].length ?? 0);
}

const escapes: Readonly<Record<string, string>> = {
  a: '\u0007',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
  '\\': '\\',
  '"': '"',
  "'": "'",
};

function readString(source: string, from: number): [Text, number] {
  const quote = source[from];
  const places: number[] = [];
  let text = '';
  for (let at = from + 1; ; at++) {
    const char = source[at];
    places.push(at);
    if (char === quote) return [{ kind: 'text', text, at: from, places }, at + 1];
    if (char === undefined || char === '\n') {
      const message = `a text has no closing ${quote} on its line — add it`;
      throw fault(source, from, message, source.slice(from, at));
    }
    if (char !== '\\') {
      text += char;
      continue;
    }
    at++;
    const meaning = escapes[source[at] ?? ''];
    if (meaning === undefined) {
      const near = source.slice(at - 1, at + 1);
      throw fault(source, at - 1, `${near} means nothing in a text — write \\\\ for \\`, near);
    }
    text += meaning;
  }
}

function unexpected(source: string, at: number, wanted: string): Failure {
  const found = matchAt(/[\w.]+|[^]/y, source, at)?.[0] ?? '';
  const names: Readonly<Record<string, string>> = {
    '': 'the end of the file',
    '\n': 'the end of the line',
    '\r': 'a carriage return (the file has the line ends of Windows)',
  };
  const shown = names[found] ?? oneLine(found);
  return fault(source, at, `${shown} stands where ${wanted} should — see xl.cfg(5)`, found);
}

function matchAt(pattern: RegExp, source: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(source);
}
