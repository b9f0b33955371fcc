/** Where the bytes of a disk are, as a picture: a square for each part of it. */
import type { VNode } from 'preact';
import type { MapView } from '../daemon/api/shapes.ts';
import { shown, sizeText } from './words.ts';

const COLUMNS = 64;
/** A part that has nothing is one shade, one that is full another, and so many are in between. */
const SHADES = 4;

/** The picture, and in words what it shows. */
export function MapPicture({ map }: { readonly map: MapView }): VNode {
  const count = map.own.length;
  const rows = Math.max(1, Math.ceil(count / COLUMNS));
  const { size, own_bytes: own, below_bytes: below, cell_bytes: cell, chain } = map;
  const zeros = Math.max(0, size - own - below);
  const says = `${sizeText(own)} in the image itself, ${sizeText(below)} from its parents, ${sizeText(zeros)} of zeros that take no room`;
  return (
    <>
      <p>{`Of ${sizeText(size)}: ${says}.`}</p>
      <svg class="map" viewBox={`0 0 ${COLUMNS} ${rows}`} role="img" aria-label={says}>
        {[...shadesOf(map)].map(([name, path]) => (
          <path key={name} class={name} d={path} />
        ))}
      </svg>
      <p class="key">
        <span class="swatch own-4" /> its own <span class="swatch below-4" /> its parents’{' '}
        <span class="swatch none" /> zeros; a square is {sizeText(cell)}
      </p>
      <ol class="chain">
        {chain.map(({ path, format }) => (
          <li key={path}>
            <code>
              <bdi>{shown(path)}</bdi>
            </code>{' '}
            {format}
          </li>
        ))}
      </ol>
    </>
  );
}

/** Of each shade all its squares as one path, by the name of the shade. */
function shadesOf({ own, below, cell_bytes: cell, size }: MapView): Map<string, string> {
  const found = new Map<string, string>();
  for (const [index, bytes] of own.entries()) {
    const whole = Math.min(cell, size - index * cell);
    const other = below[index] ?? 0;
    const kind = bytes >= other ? 'own' : 'below';
    const shade = Math.ceil((SHADES * Math.min(bytes + other, whole)) / whole);
    const name = shade === 0 ? 'none' : `${kind}-${shade}`;
    const [x, y] = [index % COLUMNS, Math.floor(index / COLUMNS)];
    found.set(name, `${found.get(name) ?? ''}M${x + 0.05} ${y + 0.05}h.9v.9h-.9z`);
  }
  return found;
}
