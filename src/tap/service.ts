/**
 * vbdd and vbd-tap as services: each says when it is ready, that it lives, and when it stops.
 * Started by hand, nobody is told.
 */
import { sentenceOf } from '../base/failure.ts';
import { connectManager, type ServiceManager, watchdogMs } from '../sys/service.ts';

export interface Service extends Disposable {
  /** Undefined when nobody manages this process. */
  readonly manager: ServiceManager | undefined;
  /**
   * Everything that was there is answered.
   * @param isAlive asked before each word that it lives, with the time there is for an answer
   */
  ready(isAlive?: (withinMs: number) => Promise<boolean>): void;
  stopping(): void;
}

/**
 * The service that the process `pid` with this environment is.
 * @param report told what the manager could not be told
 */
export function joinService(
  env: Readonly<Record<string, string | undefined>>,
  pid: number,
  report: (sentence: string) => void,
): Service {
  const path = env['NOTIFY_SOCKET'];
  const aliveMs = watchdogMs(env, pid);
  const manager = path === undefined ? undefined : connectManager(path);
  let timer: NodeJS.Timeout | undefined;
  const tell = (assignments: Readonly<Record<string, string>>): void => {
    try {
      manager?.tell(assignments);
    } catch (thrown) {
      const what = Object.keys(assignments).join(', ');
      report(`the service manager was not told ${what}: ${sentenceOf(thrown)}`);
    }
  };
  return {
    manager,
    ready(isAlive = () => Promise.resolve(true)) {
      tell({ READY: '1' });
      if (aliveMs === undefined) return;
      timer = setInterval(() => {
        void isAlive(aliveMs).then(
          (alive) => alive && tell({ WATCHDOG: '1' }),
          (thrown: unknown) => report(`it is not known to be alive: ${sentenceOf(thrown)}`),
        );
      }, aliveMs);
    },
    stopping() {
      // Nobody watches a service that stops.
      clearInterval(timer);
      tell({ STOPPING: '1' });
    },
    [Symbol.dispose]() {
      clearInterval(timer);
      manager?.[Symbol.dispose]();
    },
  };
}
