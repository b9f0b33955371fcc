/** The web page of vbdd: guests' disks as they are, as they come, and why. */
import { render, type VNode } from 'preact';
import { useContext, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { giveToken } from './ask.ts';
import { Chains } from './chains.tsx';
import { Disk } from './disk.tsx';
import { Events } from './events.tsx';
import { Guests } from './guests.tsx';
import { askStatus, keepUp } from './keep-up.ts';
import { createModel } from './model.ts';
import { ModelContext, useModel, usePlace } from './view.ts';
import { shown } from './words.ts';

const places = [
  ['#/', 'Guests'],
  ['#/chains', 'Chains'],
  ['#/events', 'Events'],
] as const;

function Page(): VNode {
  const place = usePlace();
  const main = useRef<HTMLElement>(null);
  const before = useRef(place);
  // Before it is painted: nobody sees the new place without its focus.
  useLayoutEffect(() => {
    if (before.current === place) return;
    before.current = place;
    main.current?.focus();
    scrollTo(0, 0);
  }, [place]);
  return (
    <>
      <header>
        <a href="#/" class="name">
          vbdkit
        </a>
        <nav aria-label="Pages">
          {places.map(([href, name]) => (
            <a key={href} href={href} aria-current={isAt(place, href) ? 'page' : undefined}>
              {name}
            </a>
          ))}
        </nav>
        <Rights />
      </header>
      <Problem />
      <main ref={main} tabIndex={-1}>
        {pageAt(place)}
      </main>
    </>
  );
}

function isAt(place: string, href: string): boolean {
  return place === href || (href === '#/' && (place === '' || place.startsWith('#/disk/')));
}

function pageAt(place: string): VNode {
  const [, disk] = /^#\/disk\/(\d+\/\d+)$/.exec(place) ?? [];
  if (disk !== undefined) return <Disk name={disk} />;
  if (place === '#/chains') return <Chains />;
  return place === '#/events' ? <Events /> : <Guests />;
}

function Problem(): VNode {
  const { problem, refusal } = useModel();
  return (
    <>
      <p role="status" class={problem === undefined ? 'hidden' : 'problem'}>
        {problem === undefined ? 'Live' : `${shown(problem)}: what is shown is from before`}
      </p>
      {refusal !== undefined && (
        <p role="alert" class="problem">
          {shown(refusal)}: the token is not used any more
        </p>
      )}
    </>
  );
}

/** What one may do here, and the way to more. */
function Rights(): VNode {
  const { rights, version } = useModel();
  const model = useContext(ModelContext);
  const dialog = useRef<HTMLDialogElement>(null);
  const [given, setGiven] = useState('');
  const [error, setError] = useState('');
  const tryIt = async (token: string | undefined): Promise<void> => {
    giveToken(token);
    try {
      await askStatus(model);
      setGiven('');
      setError('');
      dialog.current?.close();
    } catch (thrown) {
      giveToken(undefined);
      setError(thrown instanceof Error ? thrown.message : String(thrown));
    }
  };
  const send = (event: Event): void => {
    event.preventDefault();
    void tryIt(given.trim());
  };
  return (
    <div class="rights">
      <small>{version}</small>
      {rights === 'admin' ? (
        <button type="button" onClick={() => void tryIt(undefined)}>
          Admin: sign out
        </button>
      ) : (
        <button type="button" onClick={() => dialog.current?.showModal()}>
          Read-only
        </button>
      )}
      <dialog ref={dialog} aria-labelledby="token-title">
        <form onSubmit={send}>
          <h2 id="token-title">Admin token</h2>
          <p>
            It is in the file that page_token in vbdkit.conf names. The page forgets it when it is
            closed.
          </p>
          {/* Browsers that keep passwords keep them by a name. */}
          <input hidden readOnly autoComplete="username" value="vbdkit" />
          <label>
            Token
            <input
              type="password"
              required
              autoComplete="current-password"
              value={given}
              onInput={({ currentTarget }) => setGiven(currentTarget.value)}
            />
          </label>
          <p role="alert">{error}</p>
          <p>
            <button>Use it</button>{' '}
            <button type="button" onClick={() => dialog.current?.close()}>
              Cancel
            </button>
          </p>
        </form>
      </dialog>
    </div>
  );
}

const model = createModel();
keepUp(model);
render(
  <ModelContext.Provider value={model}>
    <Page />
  </ModelContext.Provider>,
  document.body,
);
