/**
 * Planted faults: for each promise, a change of the source that breaks it and the test that must
 * fail then. `VBDKIT_FAULT=name` with `--import ./test/faults/plant.ts` is the switch.
 */

import { accessFaults } from './access-faults.ts';
import { cliFaults } from './cli-faults.ts';
import { engineFaults } from './engine-faults.ts';
import { formatFaults } from './format-faults.ts';
import { imageFaults } from './image-faults.ts';
import { mediaFaults } from './media-faults.ts';
import { pauseFaults } from './pause-faults.ts';
import { qcow2Faults } from './qcow2-faults.ts';
import { nbdFaults } from './nbd-faults.ts';
import { ringFaults } from './ring-faults.ts';
import { storageFaults } from './storage-faults.ts';
import { sysFaults } from './sys-faults.ts';
import { verbFaults } from './verb-faults.ts';
import { vhdFaults } from './vhd-faults.ts';
import { warningFaults } from './warning-faults.ts';

export interface Fault {
  readonly name: string;
  /** The promise that it breaks. */
  readonly breaks: string;
  readonly file: string;
  /** Text that stands once in the file … */
  readonly find: string;
  /** … and what stands there instead. */
  readonly plant: string;
  /** The test file that must notice. */
  readonly caughtBy: string;
  /** Only the tests whose name matches, where the file has many. */
  readonly only?: string;
  readonly needsLoop?: boolean;
  readonly needsFuse?: boolean;
  /** Programs without which that test is skipped. */
  readonly programs?: readonly string[];
}

const pool = {
  file: 'src/backend/loop-pool.ts',
  caughtBy: 'test/backend/loop-pool.test.ts',
  needsLoop: true,
};

const stash = {
  file: 'src/backend/loop-pool.ts',
  caughtBy: 'test/backend/loop-stash.test.ts',
  needsLoop: true,
};

const restart = { caughtBy: 'test/daemon/restart.test.ts', needsLoop: true };

export const faults: readonly Fault[] = [
  {
    ...stash,
    name: 'loop-not-stashed',
    breaks: 'what vbdd holds outlives it',
    find: 'pool.stash?.keep(stashName(entry), fd.number);',
    plant: '',
  },
  {
    ...stash,
    name: 'stash-not-cleared',
    breaks: 'a disk that was detached leaves no descriptor with the service manager',
    find: 'pool.stash?.drop(stashName(entry));',
    plant: '',
  },
  {
    ...stash,
    name: 'stash-believed',
    breaks: 'a descriptor kept from before is used only when it is what its name says',
    find: 'found !== undefined && stashName(found) === name &&',
    plant: 'found !== undefined &&',
  },
  {
    ...pool,
    name: 'no-diskseq-check',
    breaks: 'a device is handed out again only if nobody bound it anew',
    find: 'kernel.diskSequence(entry.fd.number) === entry.diskSequence &&',
    plant: '',
  },
  {
    ...pool,
    name: 'no-identity-check',
    breaks: 'a device is handed out again only while it is bound to that file',
    find: 'if (entry === undefined || isUnchanged(pool.kernel, entry)) return entry;',
    plant: 'return entry;',
  },
  {
    ...pool,
    name: 'fd-closed-early',
    breaks: 'a bound device stays bound while someone uses it',
    find: 'pool.stash?.keep(stashName(entry), fd.number);',
    plant: 'fd.close();',
  },
  {
    ...pool,
    name: 'last-user-forgotten',
    breaks: 'a device is freed with its last user',
    find: 'entry.users -= 1;\n      if (entry.users === 0) retire(pool, entry);',
    plant: 'entry.users -= 1;',
  },
  {
    ...pool,
    name: 'one-device-for-two-modes',
    breaks: 'readers and writers of a file have devices of their own',
    find: "const mode = parts.readOnly ? 'r' : 'w';",
    plant: "const mode = 'w';",
  },
  {
    ...pool,
    name: 'path-instead-of-inode',
    breaks: 'a file is the same by whatever path',
    find: 'pool.entries.get(keyOf(request, request.blockSizeBytes))',
    plant:
      'pool.entries.get([...pool.entries.keys()].find(() => request.name.endsWith("/a")) ?? "")',
  },
  {
    ...pool,
    name: 'winner-freed',
    breaks: 'a device that someone else won is never cleared',
    find: "fd?.close();\n    if (isErrno(thrown, 'EBUSY', 'ENXIO', 'EAGAIN', 'ENOENT')) return undefined;",
    plant:
      "if (fd !== undefined) kernel.setAutoclear(fd.number);\n    fd?.close();\n    if (isErrno(thrown, 'EBUSY', 'ENXIO', 'EAGAIN', 'ENOENT')) return undefined;",
    only: 'a foreign losetup keeps',
  },
  {
    name: 'no-autoclear',
    breaks: 'a crash leaks no loop device: the last close frees it',
    file: 'src/sys/loop.ts',
    find: '    LO_FLAGS_AUTOCLEAR |\n    (setup.readOnly',
    plant: '    (setup.readOnly',
    caughtBy: 'test/sys/loop.test.ts',
    needsLoop: true,
  },
  {
    name: 'not-exclusive',
    breaks: 'what is held cannot be mounted in dom0 afterwards',
    file: 'src/sys/loop.ts',
    find: '(readOnly ? O.RDONLY : O.RDWR) | O.EXCL',
    plant: 'readOnly ? O.RDONLY : O.RDWR',
    caughtBy: 'test/sys/loop.test.ts',
    needsLoop: true,
  },
  {
    name: 'released-under-a-running-guest',
    breaks: 'a store that lost nodes does not take a disk from a running guest',
    file: 'src/disk/plan.ts',
    find: 'if (!facts.published) return absent(facts,',
    plant: 'if (facts.held) return absent(facts,',
    caughtBy: 'test/disk/plan.test.ts',
  },
  {
    name: 'refusal-ignored',
    breaks: 'a forbidden share is refused',
    file: 'src/disk/plan.ts',
    find: 'if (facts.conflict !== undefined) return planRefused(facts, facts.conflict);',
    plant: '',
    caughtBy: 'test/disk/plan.test.ts',
  },
  {
    name: 'await-between-look-and-hold',
    breaks: 'two guests that ask at the same moment do not both get a file',
    file: 'src/backend/reconcile.ts',
    find: 'const plan = planDisk(factsOf(world, record, look));',
    plant:
      'await new Promise((next) => setTimeout(next, 20));\n  const plan = planDisk(factsOf(world, record, look));',
    caughtBy: 'test/daemon/attach.test.ts',
    only: 'same moment',
    needsLoop: true,
  },
  {
    name: 'foreign-holders-ignored',
    breaks: 'a disk that another script attached counts as a holder',
    file: 'src/backend/reconcile.ts',
    find: 'if (!record.ours) observeForeign(world, record);',
    plant: '',
    caughtBy: 'test/daemon/attach.test.ts',
    only: 'another script|qdisk',
    needsLoop: true,
  },
  {
    name: 'refusal-not-told',
    breaks: 'the refusal stands in hotplug-error',
    file: 'src/backend/carry-out.ts',
    find: "'hotplug-error': step.failure.message, ",
    plant: '',
    caughtBy: 'test/daemon/attach.test.ts',
    only: 'second writer is refused by the same path',
    needsLoop: true,
  },
  {
    name: 'state-not-checked',
    breaks: 'a disk that is closed in mid-attach gets nothing',
    file: 'src/backend/carry-out.ts',
    find: 'return state !== undefined && Number(state) < XenbusState.closing;',
    plant: 'return state === undefined || Number(state) >= 0;',
    caughtBy: 'test/daemon/attach.test.ts',
    only: 'closed in mid-attach',
    needsLoop: true,
  },
  {
    name: 'anyone-is-the-same-vm',
    breaks: 'only the halves of one guest share what they write',
    file: 'src/disk/sharing.ts',
    find: "if (one.domid === other.domid) return 'same vm';",
    plant: "if (one.domid === other.domid || other.vm === undefined) return 'same vm';",
    caughtBy: 'test/disk/sharing.test.ts',
  },
  {
    name: 'readers-beside-writers',
    breaks: 'a reader does not stand beside a writer',
    file: 'src/disk/sharing.ts',
    find: "r: { r: true, w: false, 'w!': true },",
    plant: "r: { r: true, w: true, 'w!': true },",
    caughtBy: 'test/disk/sharing.test.ts',
  },
  {
    name: 'stack-forgotten',
    breaks: 'a partition and its whole disk overlap',
    file: 'src/disk/holdings.ts',
    find: '...stack.map((below): Slot => [below, on])',
    plant: '[identity, on]',
    caughtBy: 'test/disk/holdings.test.ts',
  },
  {
    name: 'conflict-not-retried',
    breaks: 'a transaction that met a conflict is tried again',
    file: 'src/xenstore/transaction.ts',
    find: 'if (outcome !== conflict) return outcome.result;',
    plant: 'return outcome === conflict ? (undefined as T) : outcome.result;',
    caughtBy: 'test/xenstore/store.test.ts',
    only: 'conflict',
  },
  {
    ...pool,
    name: 'adopted-without-autoclear',
    breaks: 'what the official script bound is freed with its last user, too',
    find: 'if (!entry.status.autoclear) kernel.setAutoclear(fd.number);',
    plant: '',
    only: 'learns to clear itself',
  },
  {
    ...restart,
    name: 'binding-not-checked',
    breaks: 'a device that was bound anew is not taken for the one that was given',
    file: pool.file,
    find: 'if (diskSequence === undefined || diskSequence === entry.diskSequence) return entry;',
    plant: 'if (diskSequence !== -1) return entry;',
    only: 'bound to another file since',
  },
  {
    ...restart,
    name: 'named-number-given-again',
    breaks: 'a freed device that a guest may have open is given to nobody else',
    file: pool.file,
    find: 'if (at >= 0) pool.ready.splice(at, 1);',
    plant: '',
    only: 'given to nobody else',
  },
  {
    ...restart,
    name: 'path-believed-at-adoption',
    breaks: 'a file that was replaced stays with the guest that has it',
    file: 'src/backend/adopt.ts',
    find: 'inUse ? undefined : target',
    plant: 'inUse ? target : target',
    only: 'replaced while vbdd was away',
  },
  {
    ...restart,
    name: 'given-before-all-are-known',
    breaks: 'after a start, those who hold something are known before anything is given',
    file: 'src/backend/reconcile.ts',
    find: 'world.mayHold() && wantsTarget(record)',
    plant: 'wantsTarget(record)',
    only: 'those who hold something',
  },
  {
    ...restart,
    name: 'unadoptable-forgotten',
    breaks: 'a guest whose device cannot be taken over still counts as its holder',
    file: 'src/backend/reconcile.ts',
    find: "if (world.backendOf(record.key) === 'there') observeForeign(world, record);",
    plant: '',
    only: 'counts as a holder',
  },
  {
    name: 'orphan-not-closed',
    breaks: 'what a dead guest left is cleaned up',
    file: 'src/disk/plan.ts',
    find: "facts.closeAsked ? [] : [{ do: 'close backend' }]",
    plant: '[]',
    caughtBy: 'test/disk/plan.test.ts',
    only: 'for a while',
  },
  {
    ...restart,
    name: 'stranger-never-buried',
    breaks: 'a guest that dies before vbdd has met it is cleaned up',
    file: 'src/daemon/deaths.ts',
    find: 'return since !== undefined && options.now() - since >= options.graceMs;',
    plant: 'return since === null;',
    only: 'before vbdd has met it',
  },
  {
    ...restart,
    name: 'descriptor-left-open',
    breaks: 'a vbdd that is done has nothing open',
    file: 'src/daemon/daemon.ts',
    find: 'stack.use(hostUses())',
    plant: 'hostUses()',
    only: 'has nothing open',
  },
  {
    ...restart,
    name: 'lost-answer-believed',
    breaks: 'an attach whose answer was lost counts as told',
    file: 'src/backend/reconcile.ts',
    find: 'record.published = true;',
    plant: '',
    caughtBy: 'test/daemon/lost-store.test.ts',
    only: 'the answer was lost',
  },
  {
    ...restart,
    name: 'no-sweep',
    breaks: 'the sweep finds what an event was lost of',
    file: 'src/daemon/daemon.ts',
    find: 'setInterval(scanLater, options.sweepMs)',
    plant: 'setInterval(() => {}, options.sweepMs)',
    caughtBy: 'test/daemon/lost-store.test.ts',
    only: 'comes by itself',
  },
  {
    ...restart,
    name: 'late-device-of-others-missed',
    breaks: 'a device that another script gives late counts from then on',
    file: 'src/daemon/daemon.ts',
    find: "const device = leaf === 'physical-device' && known !== undefined && !known.ours;",
    plant: 'const device = known === undefined;',
    caughtBy: 'test/daemon/holders.test.ts',
    only: 'gives late',
  },
  {
    ...restart,
    name: 'host-uses-ignored',
    breaks: 'what this host has mounted is refused to guests',
    file: 'src/backend/look.ts',
    find: 'world.refreshHostUses();',
    plant: '',
    caughtBy: 'test/daemon/holders.test.ts',
    only: 'has mounted',
    programs: ['mke2fs', 'mount', 'umount', 'losetup'],
  },
  {
    name: 'event-after-the-reading-lost',
    breaks: 'an event that comes after the reading is answered by another look',
    file: 'src/daemon/disk-table.ts',
    find: 'if (slot.calledAt === called) slot.calledAt = 0;',
    plant: 'slot.calledAt = 0;',
    caughtBy: 'test/daemon/disk-table.test.ts',
    only: 'after the reading',
  },
  {
    name: 'transactions-unbounded',
    breaks: 'a driver domain keeps within the transactions that it is granted',
    file: 'src/xenstore/driver-view.ts',
    find: 'const TRANSACTIONS_AT_ONCE = 4;',
    plant: 'const TRANSACTIONS_AT_ONCE = 1000;',
    caughtBy: 'test/xenstore/driver-view.test.ts',
  },
  {
    name: 'request-over-another',
    breaks: 'a request goes to the xenbus device when the one before it was answered',
    file: 'src/xenstore/xenbus-worker.ts',
    find: 'unanswered = true;',
    plant: '',
    caughtBy: 'test/xenstore/xenbus.test.ts',
    only: 'works through the device',
  },
  ...formatFaults,
  ...qcow2Faults,
  ...imageFaults,
  ...vhdFaults,
  ...engineFaults,
  ...nbdFaults,
  ...accessFaults,
  ...pauseFaults,
  ...mediaFaults,
  ...ringFaults,
  ...storageFaults,
  ...sysFaults,
  ...verbFaults,
  ...cliFaults,
  ...warningFaults,
];
