/** What is wrong with a text and at which character, for the sentence and for a caret under it. */
import stringWidth from 'fast-string-width';
import { Failure } from '../base/failure.ts';
import { oneLine } from '../base/log.ts';

/** A stretch of one part of a specification. */
export interface Place {
  /** Which argument, counted from 1. */
  readonly part: number;
  /** The first character, counted from 1. */
  readonly column: number;
  /** The text itself; empty where something is missing. */
  readonly near: string;
}

/** A failure of a specification at a place; `facts` are `{part, column, near}`. */
export function specFailure(message: string, place: Place): Failure {
  return new Failure('invalid', message, {
    part: place.part,
    column: place.column,
    near: place.near,
  });
}

/** The part in which a specification failed, with a caret under what is wrong, and the sentence. */
export function renderSpecFailure(failure: Failure, parts: readonly string[]): string {
  const { part, column, near } = failure.facts;
  const text = parts[Number(part) - 1];
  if (text === undefined) return failure.message;
  return `${underlined(text, Number(column), String(near))}\n${oneLine(failure.message)}`;
}

/** A line of text, and below it a mark under `near`, which begins at `column` (counted from 1). */
export function underlined(line: string, column: number, near: string): string {
  const indent = ' '.repeat(stringWidth(oneLine(line.slice(0, column - 1))));
  const mark = '~'.repeat(Math.max(0, stringWidth(oneLine(near)) - 1));
  return `  ${oneLine(line)}\n  ${indent}^${mark}`;
}
