/** What a tap that was killed has asked of a disk may come late; its successor waits for it. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { createRingFrontend, type RingFrontend } from '../../src/host/ring-frontend.ts';
import { abis } from '../../src/ring/blkif.ts';
import { createGuestMemory } from '../../src/ring/guest-memory.ts';
import { needsSlowDevice, slowDevice } from './slow-device.ts';
import { startTapProcess, type TapProcess } from './tap-process.ts';
import { until } from '../patience.ts';

const options = needsSlowDevice();

test('a successor begins when its predecessor’s last request has ended', options, async () => {
  using device = slowDevice();
  await using tap = await startTapProcess();
  const [abi] = abis;
  assert.ok(abi);
  createGuestMemory(tap.guests, 1, 101);
  const sizes = { firstPage: 0, ringPages: 1, dataPages: 100, indirectSegments: 32 };
  using frontend = createRingFrontend({ folder: tap.guests, domid: 1, abi, ...sizes });
  await attach(tap, device.path, frontend, false);
  const write = (fill: number): { status?: number } => {
    const answer: { status?: number } = {};
    const data = new Uint8Array(4096).fill(fill);
    frontend.begin({ operation: 'write', sector: 0, data }, (status) => (answer.status = status));
    frontend.push();
    return answer;
  };
  device.freeze();
  const first = write(1);
  await until('the write is with the device', () => device.underWay() > 0);
  const restarted = tap.killAndRestart();
  await until('the successor waits', () =>
    tap.said.some((line) => /which does not answer/.test(line)),
  );
  assert.equal(device.underWay(), 1);
  device.thaw();
  await restarted;
  await attach(tap, device.path, frontend, true);
  await until('the guest has its answer', () => frontend.poll() && first.status !== undefined);
  const second = write(2);
  await until('and the next', () => frontend.poll() && second.status !== undefined);
  assert.deepEqual([first.status, second.status], [0, 0]);
  await tap.client.call('DELETE', '/v1/disks/vbd-1-51712');
  assert.equal(readFileSync(device.path)[0], 2);
});

async function attach(
  { client }: TapProcess,
  path: string,
  { ringReferences: references, port }: RingFrontend,
  takeUp: boolean,
): Promise<void> {
  const image = { path, format: 'raw', writable: true, direct: true };
  await client.call('PUT', '/v1/disks/vbd-1-51712', image);
  const ring = { domid: 1, queues: [{ references, port }], take_up: takeUp };
  await client.call('PUT', '/v1/disks/vbd-1-51712/ring', ring);
}
