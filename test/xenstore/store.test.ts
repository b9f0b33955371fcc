/** The shared suite on every xenstored that there is. */
import { needsXenstored } from '../peers/xenstored.ts';
import { storeSuite } from './store-suite.ts';
import { embeddedInMemory, embeddedOnSocket, real } from './stores.ts';

storeSuite('the embedded xenstored, in memory', embeddedInMemory, { skip: false });
storeSuite('the embedded xenstored, on a socket', embeddedOnSocket, { skip: false });
storeSuite('Debian’s xenstored', () => real('xenstored'), needsXenstored('xenstored'));
storeSuite('Debian’s oxenstored', () => real('oxenstored'), needsXenstored('oxenstored'));
