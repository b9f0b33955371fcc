/** Entries for the journal, as another program gets them. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fstatSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { journalFields } from '../../src/base/log.ts';
import { openJournal, saysToJournal } from '../../src/sys/journal.ts';
import { needsProgram } from '../peers.ts';

const dir = mkdtempSync(join(tmpdir(), 'vbdkit-journal-'));
after(() => rmSync(dir, { recursive: true }));

/** Prints the datagrams that come to a socket, each with a line between. */
const RECEIVER = `
import socket, sys
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind(sys.argv[1])
print('ready', flush=True)
for _ in range(int(sys.argv[2])):
    print(journal.recv(65536).decode() + '--', flush=True)
`;

test(
  'an entry has its sentence and what it is about, and a restarted journal gets the next one',
  needsProgram('python3'),
  async () => {
    const path = join(dir, 'socket');
    const journal = openJournal(path);
    const fields = journalFields('error', 'no\nroom', {
      VBD_PATH: '/a\nMESSAGE=x',
      VBD_VDEV: undefined,
    });
    assert.equal(journal.send(fields), false);
    for (let restarts = 0; restarts < 2; restarts++) {
      const receiver = spawn('python3', ['-c', RECEIVER, path, '1'], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let said = '';
      receiver.stdout.on('data', (data: Buffer) => (said += data.toString()));
      await once(receiver.stdout, 'data');
      assert.equal(journal.send(fields), true);
      await once(receiver, 'close');
      assert.equal(said, 'ready\nMESSAGE=no\\x0aroom\nPRIORITY=3\nVBD_PATH=/a\\x0aMESSAGE=x\n--\n');
      rmSync(path);
    }
  },
);

test('only what goes to the journal itself is told to it', () => {
  const { dev, ino } = fstatSync(2, { bigint: true });
  assert.equal(saysToJournal({ JOURNAL_STREAM: `${dev}:${ino}` }), true);
  assert.equal(saysToJournal({ JOURNAL_STREAM: `${dev}:${ino + 1n}` }), false);
  assert.equal(saysToJournal({}), false);
});
