/** What an admin does to a disk: limits, a pause, another medium, its end. */
import type { VNode } from 'preact';
import { useRef, useState } from 'preact/hooks';
import type { DiskView, StatisticsView } from '../daemon/api/shapes.ts';
import { ask } from './ask.ts';
import { nameOf, pathOf } from './names.ts';
import { useAsked } from './view.ts';
import { shown } from './words.ts';

type Carry = (what: string, work: () => Promise<unknown>) => Promise<void>;

/** Only for who has given the token; vbdd sees to that, not the page. */
export function Actions({ disk }: { readonly disk: DiskView }): VNode {
  const [said, setSaid] = useState('');
  const [isBusy, setBusy] = useState(false);
  const carry: Carry = async (what, work) => {
    setBusy(true);
    setSaid('');
    try {
      await work();
      setSaid(`${what}: done`);
    } catch (thrown) {
      setSaid(`${what}: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
    }
    setBusy(false);
  };
  const { value: counted } = useAsked(
    () => ask('GET /v1/disks/{guest}/{vdev}/stat', { path: pathOf(disk) }),
    [disk],
  );
  const limits = counted?.limits ?? undefined;
  const isPaused = disk.state === 'paused';
  const setPaused = (paused: boolean) => () =>
    ask('PUT /v1/disks/{guest}/{vdev}/paused', { path: pathOf(disk), body: { paused } });
  return (
    <section>
      <h2>Change it</h2>
      <fieldset disabled={isBusy}>
        <legend class="hidden">Actions</legend>
        {disk.device === 'ring' && (
          <p>
            <button
              type="button"
              onClick={() => void carry(isPaused ? 'resume' : 'pause', setPaused(!isPaused))}
            >
              {isPaused ? 'Resume' : 'Pause'}
            </button>{' '}
            {isPaused ? 'Its guest waits.' : 'Its guest will wait once nothing is under way.'}
          </p>
        )}
        {limits && <Limits disk={disk} carry={carry} now={limits} />}
        {disk.mode === 'r' && <Medium disk={disk} carry={carry} />}
        <Detach disk={disk} carry={carry} />
      </fieldset>
      <p role="status">{shown(said)}</p>
    </section>
  );
}

interface ActionOptions {
  readonly disk: DiskView;
  readonly carry: Carry;
}

const MIB = 1 << 20;

interface LimitsOptions extends ActionOptions {
  readonly now: NonNullable<StatisticsView['limits']>;
}

function Limits({ disk, carry, now }: LimitsOptions): VNode {
  const [iops, setIops] = useState(String(now.iops));
  const [mib, setMib] = useState(String(now.bytes_per_second / MIB));
  const send = (event: Event): void => {
    event.preventDefault();
    const bytes = Math.round(Number(mib) * MIB);
    const body = { ...now, iops: Number(iops), bytes_per_second: bytes };
    void carry('limit', () =>
      ask('PUT /v1/disks/{guest}/{vdev}/limits', { path: pathOf(disk), body }),
    );
  };
  return (
    <form onSubmit={send}>
      <label>
        Requests a second
        <input
          type="number"
          min="0"
          value={iops}
          onInput={({ currentTarget }) => setIops(currentTarget.value)}
        />
      </label>
      <label>
        MiB a second
        <input
          type="number"
          min="0"
          step="any"
          value={mib}
          onInput={({ currentTarget }) => setMib(currentTarget.value)}
        />
      </label>
      <button>Limit</button> <small>0: as fast as it is</small>
    </form>
  );
}

function Medium({ disk, carry }: ActionOptions): VNode {
  const [target, setTarget] = useState('');
  const put = (what: string, body: { target?: string }): void =>
    void carry(what, () =>
      ask('PUT /v1/disks/{guest}/{vdev}/medium', { path: pathOf(disk), body }),
    );
  const send = (event: Event): void => {
    event.preventDefault();
    put('insert', { target });
  };
  return (
    <form onSubmit={send}>
      <label>
        Image for the drive
        <input
          required
          value={target}
          placeholder="/srv/cd.iso"
          onInput={({ currentTarget }) => setTarget(currentTarget.value)}
        />
      </label>
      <button>Insert</button>{' '}
      <button type="button" onClick={() => put('eject', {})}>
        Eject
      </button>
    </form>
  );
}

function Detach({ disk, carry }: ActionOptions): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  const [force, setForce] = useState(false);
  const detach = (event: Event): void => {
    event.preventDefault();
    dialog.current?.close();
    const query = { force: force ? '1' : '0' } as const;
    void carry('detach', () =>
      ask('DELETE /v1/disks/{guest}/{vdev}', { path: pathOf(disk), query }),
    );
  };
  return (
    <>
      <p>
        <button type="button" class="danger" onClick={() => dialog.current?.showModal()}>
          Detach …
        </button>
      </p>
      <dialog ref={dialog} aria-labelledby="detach-title">
        <form onSubmit={detach}>
          <h2 id="detach-title">
            Detach {disk.vdev} from {nameOf(disk)}?
          </h2>
          <p>The guest loses the disk.</p>
          <label class="check">
            <input
              type="checkbox"
              checked={force}
              onChange={({ currentTarget }) => setForce(currentTarget.checked)}
            />
            even if the guest does not let go of it
          </label>
          <p>
            <button class="danger">Detach</button>{' '}
            <button type="button" onClick={() => dialog.current?.close()}>
              Cancel
            </button>
          </p>
        </form>
      </dialog>
    </>
  );
}
