/** What every xenstored must do for the client: one suite, run on each of them. */
import { after, before, describe } from 'node:test';
import type { Store } from '../../src/xenstore/store.ts';
import type { SkipOption } from '../peers.ts';
import type { Subject } from './stores.ts';
import { nodeTests, permissionTests } from './suite-nodes.ts';
import { transactionTests } from './suite-transactions.ts';
import { domainTests, reconnectionTests, watchTests } from './suite-watches.ts';

export function storeSuite(name: string, start: () => Promise<Subject>, option: SkipOption): void {
  describe(name, option, () => {
    let subject: Subject;
    let store: Store;
    let other: Store;
    before(async () => {
      subject = await start();
      store = await subject.open(0);
      other = await subject.open(0);
    });
    after(async () => {
      await store?.[Symbol.asyncDispose]();
      await other?.[Symbol.asyncDispose]();
      await subject?.[Symbol.asyncDispose]();
    });
    const on = {
      get subject() {
        return subject;
      },
      get store() {
        return store;
      },
      get other() {
        return other;
      },
    };
    nodeTests(on);
    permissionTests(on);
    transactionTests(on);
    watchTests(on);
    domainTests(on);
    reconnectionTests(on);
  });
}
