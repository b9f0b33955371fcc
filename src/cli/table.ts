/** Plain columns as xl and lsblk print them: one heading line, left-aligned, no borders. */
import stringWidth from 'string-width';
import { oneLine } from '../base/log.ts';

/** Lines of columns as wide as their widest cell; cells are made safe for a terminal. */
export function formatTable(
  headings: readonly string[],
  rows: readonly (readonly (string | number | null)[])[],
): string {
  const cells = [headings, ...rows].map((row) => row.map((cell) => oneLine(String(cell ?? '-'))));
  const widths = headings.map((_, column) =>
    Math.max(...cells.map((row) => stringWidth(row[column] ?? ''))),
  );
  const lines = cells.map((row) =>
    row
      .map((cell, column) => cell + ' '.repeat((widths[column] ?? 0) - stringWidth(cell)))
      .join('  ')
      .trimEnd(),
  );
  return `${lines.join('\n')}\n`;
}
