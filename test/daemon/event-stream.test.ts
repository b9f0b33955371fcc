/** An asker of events that does not read them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Hono } from 'hono';
import { streamEvents } from '../../src/daemon/handlers.ts';
import type { DiskEvent } from '../../src/daemon/api/shapes.ts';

test('who leaves events unread is let go, and no more of them are kept', async () => {
  let listener: ((event: DiskEvent) => void) | undefined;
  const ended = Promise.withResolvers<void>();
  const app = new Hono();
  app.get('/', (context) =>
    streamEvents(context, {
      follow(told) {
        listener = told;
        return { [Symbol.dispose]: () => ended.resolve() };
      },
    }),
  );
  const response = await app.request('/');
  const event = { event: 'changed' } as DiskEvent;
  for (let count = 0; count < 2000; count++) listener?.(event);
  await ended.promise;
  const lines = (await response.text()).trim().split('\n');
  assert.ok(lines.length < 1100, `${lines.length} were kept`);
  assert.equal(lines[0], '{"event":"listening"}');
});
