/** Which backend serves a disk: a row per rule of libxl. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type BackendFacts,
  chooseBackend,
  type TargetKind,
} from '../../src/disk/backend-choice.ts';
import { parseSpec } from '../../src/disk/spec-parse.ts';

const rest = 'vdev=xvda,target=/i';
const facts = (kind: TargetKind, more: Partial<BackendFacts> = {}): BackendFacts => ({
  kind,
  driverDomain: false,
  ...more,
});
const file = facts('file');
const away = facts('unknown', { driverDomain: true });
const hvm = { hvm: true };

test('the first backend that fits is chosen', () => {
  const rows: readonly [string, BackendFacts, string][] = [
    [rest, file, 'phy'],
    [rest, facts('block'), 'phy'],
    [rest, facts('character'), 'qdisk'],
    [rest, facts('character', { characterDisks: true }), 'phy'],
    [rest, facts('other'), 'qdisk'],
    [rest, away, 'phy'],
    [`script=x,${rest}`, facts('missing'), 'phy'],
    [`script=,${rest}`, file, 'phy'],
    [`format=vhd,${rest}`, file, 'qdisk'],
    [`format=qcow2,${rest}`, away, 'qdisk'],
    [`format=qed,${rest}`, file, 'qdisk'],
    [`colo,${rest}`, file, 'qdisk'],
    [`backendtype=qdisk,${rest}`, facts('missing'), 'qdisk'],
    [`backendtype=tap,${rest}`, facts('missing'), 'tap'],
    [`backendtype=tap,format=vhd,${rest}`, file, 'tap'],
    [`backendtype=tap,script=x,${rest}`, file, 'tap'],
    [`specification=virtio,${rest}`, file, 'standalone'],
    [`specification=virtio,${rest}`, away, 'standalone'],
    ['cdrom,vdev=hda', facts('missing'), 'phy'],
    ['cdrom,vdev=hda,target=/i', file, 'phy'],
    ['cdrom,vdev=hda', facts('missing', hvm), 'qdisk'],
    ['cdrom,vdev=hda,target=/i', facts('block', hvm), 'qdisk'],
    ['cdrom,backendtype=phy,vdev=hda,target=/i', facts('block', hvm), 'phy'],
    [rest, facts('file', hvm), 'phy'],
  ];
  for (const [text, facts, backend] of rows) {
    assert.equal(chooseBackend(parseSpec([text]), facts).backend, backend, text);
  }
});

test('every verdict on the way says why', () => {
  assert.deepEqual(chooseBackend(parseSpec([`format=vhd,${rest}`]), file).verdicts, [
    { backend: 'phy', fits: false, reason: 'cannot read the format vhd' },
    { backend: 'qdisk', fits: true, reason: 'reads the format vhd' },
  ]);
  assert.deepEqual(chooseBackend(parseSpec([rest]), file).verdicts, [
    { backend: 'phy', fits: true, reason: 'the target is a regular file' },
  ]);
});

test('where nothing fits, the sentence says what to do', () => {
  const rows: readonly [string, BackendFacts, string, RegExp][] = [
    [rest, facts('missing'), 'not-found', /^\/i does not exist — create it/],
    [`backendtype=phy,${rest}`, facts('missing'), 'not-found', /does not exist/],
    ['vdev=xvda,target=', facts('missing'), 'not-found', /^the empty target does not exist/],
    [`backendtype=phy,${rest}`, facts('other'), 'invalid', /neither a block device nor .*leave b/],
    [`backendtype=phy,format=vhd,${rest}`, file, 'invalid', /\(phy: cannot read the format vhd\)/],
    [`backendtype=phy,colo,${rest}`, file, 'invalid', /phy: does not do colo/],
    [`backendtype=qdisk,script=x,${rest}`, file, 'invalid', /qdisk: runs no script/],
    [`backendtype=tap,format=qcow2,${rest}`, file, 'invalid', /tap: cannot read the format qcow2/],
    [`backendtype=standalone,${rest}`, file, 'invalid', /only for specification=virtio/],
    [`format=qcow2,script=x,${rest}`, file, 'invalid', /a disk with a script has format=raw/],
    [`format=vmdk,${rest}`, file, 'invalid', /write script=block-vbd,target=vmdk:\/i$/],
    [`specification=virtio,backendtype=phy,${rest}`, file, 'invalid', /virtio needs standalone/],
    [`specification=virtio,script=x,${rest}`, file, 'invalid', /standalone: runs no script/],
    [`format=empty,${rest}`, file, 'invalid', /^xvda is empty but no cdrom/],
    ['cdrom,format=empty,vdev=hda,target=/i', file, 'invalid', /format empty and the target \/i/],
    ['cdrom,backendtype=tap,vdev=hda', facts('missing', hvm), 'invalid', /HVM guest cannot/],
    ['cdrom,backendtype=tap,vdev=hda', facts('missing'), 'invalid', /cannot read the format empty/],
  ];
  for (const [text, facts, kind, message] of rows) {
    assert.throws(() => chooseBackend(parseSpec([text]), facts), { kind, message }, text);
  }
});
