/** What the store says of guests that may share a disk: names, VMs, and whose stub domain one is. */
import type { VmFacts } from '../disk/sharing.ts';
import type { Store } from '../xenstore/store.ts';

export interface VmBook {
  /** Undefined until it was learnt. */
  of(domid: number): VmFacts | undefined;
  /** Asks the store about those domains, all in one go. */
  learn(domids: readonly number[]): Promise<void>;
}

/** A book that lives for one decision: names and VMs may change between two. */
export function vmBook(store: Store): VmBook {
  const book = new Map<number, VmFacts>();
  const learnOne = async (domid: number): Promise<void> => {
    const domain = `/local/domain/${domid}`;
    const [name, vm, target] = await Promise.all([
      store.read(`${domain}/name`),
      store.read(`${domain}/vm`),
      store.read(`${domain}/target`),
    ]);
    const targetVm =
      target === undefined ? undefined : await store.read(`/local/domain/${target}/vm`);
    book.set(domid, {
      domid,
      ...(name === undefined ? {} : { name }),
      ...(vm === undefined ? {} : { vm }),
      ...(targetVm === undefined ? {} : { targetVm }),
    });
  };
  return {
    of: (domid) => book.get(domid),
    async learn(domids) {
      await Promise.all(domids.map(learnOne));
    },
  };
}
