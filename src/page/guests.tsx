/** All guests with their disks, and what these do at the moment. */
import type { VNode } from 'preact';
import { useContext, useEffect, useState } from 'preact/hooks';
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
  const disks = chosen([...model.disks.values()], filter.toLowerCase());
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

function chosen(disks: readonly DiskView[], words: string): readonly DiskView[] {
  if (words === '') return disks;
  return disks.filter(({ guest, domid, vdev, path, state }) =>
    `${guest ?? ''} ${domid} ${vdev} ${path} ${state}`.toLowerCase().includes(words),
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
  const model = useContext(ModelContext);
  useEffect(() => {
    const listener = model.onTick(writeSeen);
    return () => listener[Symbol.dispose]();
  }, [model]);
  return (
    <table class="disks">
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
      {[...Map.groupBy(disks, ({ domid }) => domid)].map(([domid, own]) => guestOf(domid, own))}
    </table>
  );
}

/** A guest whose disks are what they were has the rows that it had: there is nothing to compare. */
const known = new Map<number, { readonly disks: readonly DiskView[]; readonly rows: VNode }>();

function guestOf(domid: number, disks: readonly DiskView[]): VNode {
  const before = known.get(domid);
  const isSame =
    before?.disks.length === disks.length && disks.every((disk, at) => disk === before.disks[at]);
  if (before !== undefined && isSame) return before.rows;
  const rows = (
    <tbody key={domid}>
      <tr>
        <th scope="rowgroup" colSpan={6} class="guest">
          <bdi>{nameOf(disks[0])}</bdi> <small>domain {domid}</small>
        </th>
      </tr>
      {disks.map((disk) => (
        <DiskRow key={keyOf(disk)} disk={disk} />
      ))}
    </tbody>
  );
  known.set(domid, { disks, rows });
  return rows;
}

function DiskRow({ disk }: { readonly disk: DiskView }): VNode {
  const { vdev, path, state, mode, sharers } = disk;
  const shares = sharers > 1 ? `, shared by ${sharers} disks` : '';
  return (
    <tr data-disk={keyOf(disk)} ref={watch}>
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

/** The rows that can be seen: of others nobody needs to know what they do. */
const seen = new Set<HTMLTableRowElement>();
let last: Tick | undefined;

const watcher = new IntersectionObserver(
  (changes) => {
    for (const { target, isIntersecting } of changes) {
      const row = target as HTMLTableRowElement;
      if (!isIntersecting) seen.delete(row);
      else seen.add(row);
      if (isIntersecting && last !== undefined) write(row, last);
    }
  },
  { rootMargin: '100px' },
);

function watch(row: HTMLTableRowElement | null): void {
  if (row !== null) watcher.observe(row);
}

function writeSeen(tick: Tick): void {
  last = tick;
  for (const row of seen) {
    if (row.isConnected) write(row, tick);
    else seen.delete(row);
  }
}

/** Texts that preact does not look at again: it has drawn a space there. */
function write({ cells, dataset }: HTMLTableRowElement, { rates }: Tick): void {
  const rate = rates.get(dataset['disk'] ?? '');
  for (const [index, figure] of figures.entries()) {
    const text = cells[cells.length - figures.length + index]?.firstChild;
    const says = rate === undefined ? '–' : figure(rate);
    if (text instanceof Text && text.data !== says) text.data = says;
  }
}
