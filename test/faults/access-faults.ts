/** Planted faults of who may do what, by the control socket and by the web page's port. */
import type { Fault } from './faults.ts';

const door = {
  file: 'src/daemon/page-door.ts',
  caughtBy: 'test/daemon/page-door.test.ts',
  needsLoop: true,
};

export const accessFaults: readonly Fault[] = [
  {
    name: 'reader-may-change',
    breaks: 'who may only look at disks changes nothing',
    file: 'src/daemon/control.ts',
    find: '    if (!looks) requireAdmin(peerOf(context));\n',
    plant: '',
    caughtBy: 'test/daemon/access.test.ts',
    needsLoop: true,
  },
  {
    ...door,
    name: 'page-changes-for-all',
    breaks: 'who has no token changes nothing by the page',
    find: "if (given === undefined) return 'read';",
    plant: "if (given === undefined) return 'admin';",
    only: 'no token may look',
  },
  {
    ...door,
    name: 'any-token-will-do',
    breaks: 'a token is the one that the file has',
    find: '(await isAdminToken(tokenPath, String(given)))',
    plant: "given !== ''",
    only: 'not the right one',
  },
  {
    ...door,
    name: 'page-does-everything',
    breaks: 'the page’s port takes of changes only those that the page makes',
    file: 'src/daemon/control.ts',
    find: "    if (method !== 'GET' && page !== true) requireSocket(peerOf(context));\n",
    plant: '',
    only: 'and no more',
  },
  {
    ...door,
    name: 'host-not-looked-at',
    breaks: 'a name of a stranger’s that leads here gets nothing (DNS rebinding)',
    find: '    requireKnownHost(request, config.page_hosts);\n',
    plant: '',
    only: 'its own names',
  },
  {
    ...door,
    name: 'other-sites-answered',
    breaks: 'another site in the same browser gets nothing',
    find: '    requireSameSite(request);\n',
    plant: '',
    only: 'another site',
  },
  {
    ...door,
    name: 'policy-lets-in',
    breaks: 'browsers load nothing from elsewhere into the page',
    find: '"default-src \'none\'"',
    plant: "'default-src *'",
    only: 'nothing from elsewhere',
  },
  {
    ...door,
    name: 'map-of-any-file',
    breaks: 'a map tells of files that the disk holds, and of no others',
    file: 'src/daemon/map-worker.ts',
    find: 'if (held.includes(identity)) return bytes;',
    plant: 'if (held.length > 0) return bytes;',
    caughtBy: 'test/daemon/disk-map.test.ts',
    only: 'another file',
  },
];
