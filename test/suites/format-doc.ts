/** Reads the tables of fields in docs/formats/*.md, so that tests can hold them against the layouts. */

/** The cells of the table under a heading, row by row, without its head; code marks are taken off the first. */
export function fieldTable(markdown: string, heading: string): string[][] {
  const lines = markdown.split('\n');
  const begin = lines.findIndex((line) => line === `## ${heading}` || line === `### ${heading}`);
  if (begin < 0) throw new Error(`there is no heading ${heading}`);
  const rest = lines.slice(begin + 1);
  const end = rest.findIndex((line) => line.startsWith('#'));
  return rest
    .slice(0, end < 0 ? undefined : end)
    .filter((line) => line.startsWith('|'))
    .slice(2)
    .map((line) => line.split('|').slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim()))
    .map(([first = '', ...others]) => [first.replaceAll('`', ''), ...others]);
}
