/** All guests with their disks, and what these do at the moment. */
import type { VNode } from 'preact';
import { useContext, useEffect, useRef, useState } from 'preact/hooks';
import type { DiskView } from '../daemon/api/shapes.ts';
import { Charts } from './charts.tsx';
import type { Tick } from './model.ts';
import { nameOf } from './names.ts';
import { keyOf, type Rate } from './rates.ts';
import { ModelContext, useModel } from './view.ts';
import { countText, rateText, shown, timeText } from './words.ts';

/** Of the cells of a row that change every second, what they say. */
const figures: readonly ((rate: Rate) => string)[] = [
  ({ readBytes }) => rateText(readBytes),
  ({ writeBytes }) => rateText(writeBytes),
  ({ latencyUs }) => timeText(latencyUs),
  ({ underWay }) => countText(underWay),
];

/** The first page. */
export function Guests(): VNode {
  const model = useModel();
  const [filter, setFilter] = useState('');
  const words = filter.toLowerCase();
  const disks = [...model.disks.values()]
    .filter(({ guest, domid, vdev, path, state }) =>
      `${guest ?? ''} ${domid} ${vdev} ${path} ${state}`.toLowerCase().includes(words),
    )
    .sort((one, other) => one.domid - other.domid || one.devid - other.devid);
  return (
    <>
      <h1>Guests and their disks</h1>
      <Charts of={undefined} />
      <label class="filter">
        Show only what has
        <input
          type="search"
          value={filter}
          placeholder="a guest, a path, refused …"
          onInput={({ currentTarget }) => setFilter(currentTarget.value)}
        />
      </label>
      <p>{sumOf(disks, model.disks.size)}</p>
      {disks.length > 0 && <DiskTable disks={disks} />}
    </>
  );
}

function sumOf(disks: readonly DiskView[], all: number): string {
  const guests = new Set(disks.map(({ domid }) => domid)).size;
  const refused = disks.filter(({ state }) => state === 'refused').length;
  const of = disks.length === all ? '' : ` of ${all}`;
  const more = refused > 0 ? `, ${refused} refused` : '';
  return `${disks.length}${of} ${all === 1 ? 'disk' : 'disks'}, ${guests} ${guests === 1 ? 'guest' : 'guests'}${more}`;
}

function DiskTable({ disks }: { readonly disks: readonly DiskView[] }): VNode {
  const table = useRef<HTMLTableElement>(null);
  const model = useContext(ModelContext);
  // Rows are found anew after each drawing; between two, a second touches nothing but their texts.
  const cells = useRef(new Map<string, Text[]>());
  useEffect(() => {
    cells.current = liveCells(table.current);
    const last = model.history.at(-1);
    if (last !== undefined) write(cells.current, last);
  }, [disks]);
  useEffect(() => {
    const listener = model.onTick((tick) => write(cells.current, tick));
    return () => listener[Symbol.dispose]();
  }, [model]);
  return (
    <table ref={table} class="disks">
      <thead>
        <tr>
          <th scope="col">Disk</th>
          <th scope="col">State</th>
          <th scope="col">Read</th>
          <th scope="col">Write</th>
          <th scope="col" class="wide">
            Latency
          </th>
          <th scope="col" class="wide">
            Queue
          </th>
        </tr>
      </thead>
      {[...Map.groupBy(disks, ({ domid }) => domid)].map(([domid, own]) => (
        <tbody key={domid}>
          <tr>
            <th scope="rowgroup" colSpan={6} class="guest">
              <bdi>{nameOf(own[0])}</bdi> <small>domain {domid}</small>
            </th>
          </tr>
          {own.map(rowOf)}
        </tbody>
      ))}
    </table>
  );
}

/** A disk that is what it was has the row that it had: there is nothing to compare. */
const rows = new WeakMap<DiskView, VNode>();

function rowOf(disk: DiskView): VNode {
  const known = rows.get(disk);
  if (known !== undefined) return known;
  const { vdev, path, state, mode, sharers } = disk;
  const shares = sharers > 1 ? `, shared by ${sharers} disks` : '';
  const row = (
    <tr key={keyOf(disk)} data-disk={keyOf(disk)}>
      <th scope="row">
        <a href={`#/disk/${keyOf(disk)}`}>{vdev}</a>
        <small class="path">
          <bdi>{shown(path)}</bdi> ({mode}
          {shares})
        </small>
      </th>
      <td>
        <State of={disk} />
        <span class="state-text">{state}</span>
      </td>
      <td class="number"> </td>
      <td class="number"> </td>
      <td class="number wide"> </td>
      <td class="number wide"> </td>
    </tr>
  );
  rows.set(disk, row);
  return row;
}

/** A mark before the word, which is never by colour alone. */
function State({ of: { state, warning } }: { readonly of: DiskView }): VNode {
  const marks: Partial<Record<DiskView['state'], string>> = {
    attached: '●',
    refused: '✕',
    paused: '‖',
  };
  return (
    <span aria-hidden="true" class={`mark ${state} ${warning === null ? '' : 'warned'}`}>
      {marks[state] ?? '○'}
    </span>
  );
}

function liveCells(table: HTMLTableElement | null): Map<string, Text[]> {
  const found = new Map<string, Text[]>();
  for (const row of table?.querySelectorAll<HTMLTableRowElement>('tr[data-disk]') ?? []) {
    const texts = [...row.cells].slice(-figures.length).map(({ firstChild }) => firstChild as Text);
    found.set(row.dataset['disk'] ?? '', texts);
  }
  return found;
}

function write(cells: ReadonlyMap<string, readonly Text[]>, { rates }: Tick): void {
  for (const [key, texts] of cells) {
    const rate = rates.get(key);
    for (const [index, text] of texts.entries()) {
      const says = rate === undefined ? '–' : (figures[index]?.(rate) ?? '');
      if (text.data !== says) text.data = says;
    }
  }
}
