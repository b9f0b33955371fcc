/** One disk: what it does, what it is made of, who shares it, and why it is as it is. */
import type { VNode } from 'preact';
import { useState } from 'preact/hooks';
import type { DiskView, MapView, UserView, WhyView } from '../daemon/api/shapes.ts';
import { Actions } from './actions.tsx';
import { ask } from './ask.ts';
import { Trees } from './chains.tsx';
import { Charts } from './charts.tsx';
import { forestOf } from './forest.ts';
import { MapPicture } from './map.tsx';
import { nameOf, pathOf } from './names.ts';
import { type Asked, useAsked, useModel } from './view.ts';
import { shown } from './words.ts';

/** The page of a disk. @param name `DOMID/DEVID` */
export function Disk({ name }: { readonly name: string }): VNode {
  const { disks, rights } = useModel();
  const disk = disks.get(name);
  if (disk === undefined) {
    return (
      <>
        <h1>No such disk</h1>
        <p>
          It is not there, or not any more. <a href="#/">All disks</a>
        </p>
      </>
    );
  }
  const { state, error, warning } = disk;
  return (
    <>
      <h1>
        {disk.vdev} of <bdi>{nameOf(disk)}</bdi>
      </h1>
      <p class={`state ${state}`}>
        <b>{state}</b>
        {error !== null && `: ${shown(error)}`}
      </p>
      {warning !== null && (
        <p class="state warned" role="alert">
          {shown(warning)}
        </p>
      )}
      <Charts of={name} />
      <Facts disk={disk} />
      <div class="parts">
        <Why key={`why ${name}`} disk={disk} />
        <section>
          <h2>Chain</h2>
          <Trees nodes={forestOf([disk])} />
        </section>
        <Users key={`users ${name}`} disk={disk} />
      </div>
      <Bytes key={`map ${name}`} disk={disk} />
      {rights === 'admin' && <Actions key={`do ${name}`} disk={disk} />}
    </>
  );
}

function Facts({ disk }: { readonly disk: DiskView }): VNode {
  const modes: Readonly<Record<string, string>> = {
    r: 'reads',
    w: 'reads and writes',
    'w!': 'writes beside other writers',
  };
  const facts: readonly (readonly [string, string])[] = [
    ['Path', shown(disk.path)],
    ['Guest', `${nameOf(disk)} (domain ${disk.domid})`],
    ['Access', modes[disk.mode] ?? disk.mode],
    [
      'Served by',
      disk.device === 'ring' ? 'vbd-tap on the guest’s ring' : (disk.device ?? 'nobody'),
    ],
    ['Kind', disk.kind],
    ['Attached in', disk.hold_ms === null ? 'not by this vbdd' : `${disk.hold_ms.toFixed(2)} ms`],
  ];
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            <bdi>{value}</bdi>
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Why({ disk }: { readonly disk: DiskView }): VNode {
  const asked = useAsked(
    () => ask('GET /v1/disks/{guest}/{vdev}/why', { path: pathOf(disk) }),
    [disk],
  );
  const body = ({ because, steps, facts }: WhyView): VNode => (
    <>
      <ul>
        {because.map((sentence) => (
          <li key={sentence}>because {shown(sentence)}</li>
        ))}
        {steps.length === 0 && <li>there is nothing to do</li>}
        {steps.map((step) => (
          <li key={step}>would {shown(step)}</li>
        ))}
      </ul>
      <details>
        <summary>The facts</summary>
        <pre tabIndex={0} aria-label="The facts">
          {shownLines(JSON.stringify(facts, null, 2))}
        </pre>
      </details>
    </>
  );
  return <Part title="Why it is so" asked={asked} body={body} />;
}

function shownLines(text: string): string {
  return text.split('\n').map(shown).join('\n');
}

function Users({ disk }: { readonly disk: DiskView }): VNode {
  const asked = useAsked(
    () => ask('GET /v1/disks/{guest}/{vdev}/users', { path: pathOf(disk) }),
    [disk],
  );
  const body = ({ users }: { users: readonly UserView[] }): VNode => (
    <ul>
      {users.map(({ user, mode, path }) => (
        <li key={`${user} ${path}`}>
          <bdi>{shown(user)}</bdi> ({mode})
          <small class="path">
            <bdi>{shown(path)}</bdi>
          </small>
        </li>
      ))}
    </ul>
  );
  return <Part title="Who uses its files" asked={asked} body={body} />;
}

function Bytes({ disk }: { readonly disk: DiskView }): VNode {
  const [looks, setLooks] = useState(0);
  const asked = useAsked(
    () => ask('GET /v1/disks/{guest}/{vdev}/map', { path: pathOf(disk), query: { cells: 1024 } }),
    [disk.path, disk.state, looks],
  );
  const body = (map: MapView): VNode => <MapPicture map={map} />;
  return (
    <Part title="Where its bytes are" asked={asked} body={body}>
      <button type="button" onClick={() => setLooks(looks + 1)}>
        Look again
      </button>
    </Part>
  );
}

interface PartOptions<T> {
  readonly title: string;
  readonly asked: Asked<T>;
  readonly body: (value: T) => VNode;
  readonly children?: VNode;
}

function Part<T>({ title, asked: { value, error }, body, children }: PartOptions<T>): VNode {
  return (
    <section>
      <h2>{title}</h2>
      {error !== undefined && <p class="state refused">{shown(error)}</p>}
      {value === undefined && error === undefined && <p>…</p>}
      {value !== undefined && body(value)}
      {children}
    </section>
  );
}
