/** Guests by name or number, as the store knows them. */
import { Failure } from '../base/failure.ts';
import type { Store } from '../xenstore/store.ts';

/** The names of these guests; those without one are left out. One round trip for all. */
export async function guestNames(
  store: Store,
  domids: Iterable<number>,
): Promise<Map<number, string>> {
  const asked = [...new Set(domids)];
  const { values } = await store.readAll(asked.map((domid) => `/local/domain/${domid}/name`));
  return new Map(
    asked.flatMap((domid, index) => {
      const name = values[index];
      return name === undefined ? [] : [[domid, name] as const];
    }),
  );
}

/**
 * The domid of a guest named by domid or by name.
 * @throws Failure not-found
 */
export async function resolveGuest(store: Store, guest: string): Promise<number> {
  const domids = /^\d+$/.test(guest)
    ? [Number(guest)]
    : ((await store.directory('/local/domain')) ?? []).map(Number);
  const names = await guestNames(store, domids);
  if (/^\d+$/.test(guest)) {
    const there = (await store.directory(`/local/domain/${guest}`)) !== undefined;
    if (there) return Number(guest);
  } else {
    for (const [domid, name] of names) if (name === guest) return domid;
  }
  throw new Failure('not-found', `there is no guest ${guest} — see xl list`, { guest });
}
