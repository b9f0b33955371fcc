/** Plain columns as xl and lsblk print them: one heading line, left-aligned, no borders. */
import stringWidth from 'fast-string-width';
import { oneLine } from '../base/log.ts';

/** Lines of columns as wide as their widest cell; cells are made safe for a terminal. */
export function formatTable(
  headings: readonly string[] | undefined,
  rows: readonly (readonly (string | number | null)[])[],
): string {
  const lines = headings === undefined ? rows : [headings, ...rows];
  if (lines.length === 0) return '';
  const cells = lines.map((row) => row.map((cell) => oneLine(String(cell ?? '-'))));
  const count = Math.max(...cells.map((row) => row.length));
  const widths = Array.from({ length: count }, (_, column) =>
    Math.max(...cells.map((row) => stringWidth(row[column] ?? ''))),
  );
  return cells.map((row) => `${padded(row, widths)}\n`).join('');
}

function padded(row: readonly string[], widths: readonly number[]): string {
  return row
    .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - stringWidth(cell)))
    .join('  ')
    .trimEnd();
}
