/** Results of the ring that are less than was asked for: what is left goes on its way again. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { test } from 'node:test';
import type { Desk, Operation, OperationKind, Request } from '../../src/image/engine-desk.ts';
import { startOperation, takeOperation, takeResult } from '../../src/image/engine-operations.ts';

const { EIO, ENOSPC } = constants.errno;
const LENGTH = 64 * 1024;

interface Play {
  readonly request: Request;
  readonly operation: Operation;
  /** Length and place of each call. */
  readonly calls: [number, number][];
  readonly result: (count: number) => boolean;
}

/** An operation of 64 KiB at byte 1 MiB of a file that is open with O_DIRECT. */
function play(kind: OperationKind): Play {
  const calls: [number, number][] = [];
  const call = (_fd: number, _address: number, lengthBytes: number, at: number): void =>
    void calls.push([lengthBytes, at]);
  const desk = {
    uring: { read: call, write: call },
    files: { forget() {} },
    traffic: new WeakMap(),
    operations: [],
    freeOperations: [],
    pending: 0,
  } as unknown as Desk;
  const request = {
    image: {},
    errno: 0,
    outstanding: 0,
    memory: { view: new Uint8Array(LENGTH) },
  } as unknown as Request;
  const operation = takeOperation(desk, kind, request);
  operation.way = { fd: 3, alignmentBytes: 4096 } as Operation['way'];
  Object.assign(operation, { at: 2 ** 20, address: 2 ** 30, lengthBytes: LENGTH });
  startOperation(desk, operation);
  return { request, operation, calls, result: (count) => takeResult(desk, operation, count) };
}

test('a direct write that ends within a sector goes on from where that begins', () => {
  const { request, calls, result } = play('write');
  assert.equal(result(10_000), false);
  assert.equal(result(4096), false);
  assert.equal(result(LENGTH - 12_288), true);
  assert.deepEqual(calls, [
    [LENGTH, 2 ** 20],
    [LENGTH - 8192, 2 ** 20 + 8192],
    [LENGTH - 12_288, 2 ** 20 + 12_288],
  ]);
  assert.equal(request.errno, 0);
});

for (const [count, errno] of [
  [0, EIO],
  [1000, EIO],
  [-ENOSPC, ENOSPC],
] as const) {
  test(`a direct write of which ${count} bytes are taken is not answered as if it were whole`, () => {
    const { request, result } = play('write');
    assert.equal(result(8192), false);
    assert.equal(result(count), true);
    assert.equal(request.errno, errno);
  });
}

test('a direct read that ends within a sector has met the end of the file', () => {
  const { request, operation, result } = play('read');
  request.memory.view.fill(9);
  operation.wantedBytes = LENGTH;
  assert.equal(result(10_000), true);
  assert.equal(request.errno, 0);
  assert.deepEqual([...request.memory.view.subarray(9999, 10_002)], [9, 0, 0]);
});
