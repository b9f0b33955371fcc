/** Keeps the model as vbdd is: its disks, each event of them, and every second what they have done. */
import { ask, follow } from './ask.ts';
import type { Model } from './model.ts';

const AGAIN_MS = 1000;
const EVERY_MS = 1000;

/** Goes on for as long as the page is there. */
export function keepUp(model: Model): void {
  void keepFollowing(model);
  void keepAsking(model);
}

/** Asks again who may do what. @throws Error: the token is not the right one */
export async function askStatus(model: Model): Promise<void> {
  model.setStatus(await ask('GET /v1/status'));
}

async function keepFollowing(model: Model): Promise<never> {
  for (;;) {
    const ended = new AbortController();
    try {
      await follow((event) => {
        if ('disk' in event) model.addEvent(event);
        // What is there from now on is told as events; what was there before is asked for.
        else void load(model).catch(() => ended.abort());
      }, ended.signal);
      model.setProblem('vbdd has ended');
    } catch (thrown) {
      model.setProblem(reasonOf(thrown));
    }
    await pause(AGAIN_MS);
  }
}

async function load(model: Model): Promise<void> {
  const { disks } = await ask('GET /v1/disks');
  model.setDisks(disks);
  await askStatus(model);
  model.setProblem(undefined);
}

async function keepAsking(model: Model): Promise<never> {
  for (;;) {
    if (document.hidden) {
      model.forgetLoad();
      await new Promise((seen) => {
        document.addEventListener('visibilitychange', seen, { once: true });
      });
      continue;
    }
    const beganMs = performance.now();
    try {
      model.addLoad(await ask('GET /v1/load'));
    } catch {
      // Why it does not answer is told where events are listened to.
      model.forgetLoad();
    }
    await pause(Math.max(EVERY_MS - (performance.now() - beganMs), 100));
  }
}

function reasonOf(thrown: unknown): string {
  if (thrown instanceof TypeError) return 'vbdd does not answer';
  return thrown instanceof Error ? thrown.message : String(thrown);
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}
