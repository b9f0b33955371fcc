/** Keeps the model as vbdd is: its disks, each event of them, and every second what they have done. */
import type { DiskEvent } from '../daemon/api/shapes.ts';
import { ask, follow, whenRefused } from './ask.ts';
import type { Model } from './model.ts';

const AGAIN_MS = 1000;
const EVERY_MS = 1000;

/** Goes on for as long as the page is there. */
export function keepUp(model: Model): void {
  whenRefused((sentence) => {
    // Whoever tries one is told where he does.
    if (model.rights === 'admin') model.setRefusal(sentence);
  });
  void keepFollowing(model);
  void keepAsking(model);
}

/** Asks again who may do what. @throws Error: the token is not the right one */
export async function askStatus(model: Model): Promise<void> {
  model.setStatus(await ask('GET /v1/status'));
}

const HIDDEN = Symbol('hidden');

/** A browser has six connections to a host, for all of its tabs: one that nobody sees takes none. */
async function keepFollowing(model: Model): Promise<never> {
  for (;;) {
    await seen();
    const ended = new AbortController();
    const leave = (): void => ended.abort(HIDDEN);
    document.addEventListener('visibilitychange', leave, { once: true });
    try {
      await followOnce(model, ended);
      model.setProblem('vbdd has ended');
    } catch (thrown) {
      if (thrown === HIDDEN) continue;
      model.setProblem(reasonOf(thrown));
    } finally {
      document.removeEventListener('visibilitychange', leave);
      ended.abort();
    }
    await pause(AGAIN_MS);
  }
}

async function followOnce(model: Model, ended: AbortController): Promise<void> {
  /** What comes before the list, which may be older. */
  let early: DiskEvent[] | undefined = [];
  const load = async (): Promise<void> => {
    const { disks } = await ask('GET /v1/disks');
    if (ended.signal.aborted) return;
    model.setDisks(disks);
    for (const event of early ?? []) model.addEvent(event);
    early = undefined;
    await askStatus(model);
    model.setProblem(undefined);
  };
  await follow((event) => {
    // What is there from now on is told as events; what was there before is asked for.
    if (!('disk' in event)) void load().catch((thrown: unknown) => ended.abort(thrown));
    else if (early === undefined) model.addEvent(event);
    else early.push(event);
  }, ended.signal);
}

/** Once the page is seen. */
async function seen(): Promise<void> {
  while (document.hidden) {
    await new Promise((changed) => {
      document.addEventListener('visibilitychange', changed, { once: true });
    });
  }
}

async function keepAsking(model: Model): Promise<never> {
  for (;;) {
    if (document.hidden) {
      model.forgetLoad();
      await seen();
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
