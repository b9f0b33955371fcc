/** What has happened to disks since the page was opened, the latest first. */
import type { VNode } from 'preact';
import type { DiskEvent } from '../daemon/api/shapes.ts';
import { nameOf } from './names.ts';
import { useModel } from './view.ts';
import { shown } from './words.ts';

/** The page of all events. */
export function Events(): VNode {
  const { events } = useModel();
  return (
    <>
      <h1>Events</h1>
      <p>
        {events.length === 0
          ? 'Nothing has happened since this page was opened.'
          : 'The latest is first.'}
      </p>
      <div role="log" aria-label="Events">
        <ol class="events">{events.map(lineOf)}</ol>
      </div>
    </>
  );
}

const lines = new WeakMap<DiskEvent, VNode>();

function lineOf(event: DiskEvent): VNode {
  const known = lines.get(event);
  if (known !== undefined) return known;
  const { time, event: what, disk } = event;
  const why = disk.error ?? disk.warning;
  const line = (
    <li key={`${time} ${disk.domid} ${disk.devid} ${what}`}>
      <time dateTime={time}>{new Date(time).toLocaleTimeString()}</time> <b>{what}</b> {disk.vdev}{' '}
      of <bdi>{nameOf(disk)}</bdi>
      <small class="path">
        <bdi>{shown(disk.path)}</bdi>
        {why !== null && `: ${shown(why)}`}
      </small>
    </li>
  );
  lines.set(event, line);
  return line;
}
