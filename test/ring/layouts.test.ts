/** The ring's layouts, judged by a C compiler over Debian's own Xen headers. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  type Abi,
  abis,
  entriesOf,
  MOST_INDIRECT_PAGES,
  MOST_SEGMENTS,
  Operation,
  RingAt,
  SEGMENT_BYTES,
  Status,
} from '../../src/ring/blkif.ts';
import { needs, needsProgram, peersDir } from '../peers.ts';

const headers = join(peersDir, 'xen/usr/include');
const { skip: noHeaders } = needs(
  existsSync(join(headers, 'xen/io/blkif.h')),
  'no headers of libxen-dev — run tools/peers.sh',
);
const options = noHeaders === false ? needsProgram('gcc') : { skip: noHeaders };

function asCompiled(...flags: string[]): string {
  const dir = mkdtempSync(join(tmpdir(), 'vbdkit-layouts-'));
  try {
    const program = join(dir, 'layouts');
    const source = join(import.meta.dirname, 'layouts.c');
    execFileSync('gcc', ['-isystem', headers, ...flags, '-o', program, source]);
    return execFileSync(program, { encoding: 'utf8' });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** Ours, in the words and the order of layouts.c. */
function asDeclared(abi: Abi): string {
  const { at, response } = abi;
  const rows: (readonly [string, ...number[]])[] = [
    ['entryBytes', abi.entryBytes],
    ['entries1', entriesOf(abi, 1)],
    ['entries16', entriesOf(abi, 16)],
    ['ring.entries', RingAt.entries],
    ['ring.requestsProduced', RingAt.requestsProduced],
    ['ring.requestEvent', RingAt.requestEvent],
    ['ring.responsesProduced', RingAt.responsesProduced],
    ['ring.responseEvent', RingAt.responseEvent],
    ['operation', at.operation],
    ['segments', at.segments],
    ['id', at.id],
    ['sector', at.sector],
    ['segment', at.segment],
    ['segmentBytes', SEGMENT_BYTES],
    ['segment.first', 4],
    ['segment.last', 5],
    ['discard.flags', at.segments],
    ['discard.id', at.id],
    ['discard.sector', at.sector],
    ['discardSectors', at.discardSectors],
    ['indirect.inner', at.segments],
    ['indirectSegments', at.indirectSegments],
    ['indirect.id', at.id],
    ['indirect.sector', at.sector],
    ['indirectPages', at.indirectPages],
    ['responseBytes', response.bytes],
    ['response.operation', response.operation],
    ['response.status', response.status],
    ['most', MOST_SEGMENTS, MOST_INDIRECT_PAGES],
    ['operations', ...Object.values(Operation)],
    ['statuses', ...Object.values(Status)],
  ];
  return rows.map((row) => `${row.join(' ')}\n`).join('');
}

for (const abi of abis) {
  const flags = abi.name === 'x86_32-abi' ? ['-DNARROW'] : [];
  test(`${abi.name} is laid out as Xen's headers have it`, options, () => {
    assert.equal(asDeclared(abi), asCompiled(...flags));
  });
}
