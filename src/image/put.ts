/** Bytes of metadata as a step of a plan. */
import { addPut, type Steps } from './steps.ts';

/** Adds a put of these bytes. */
export function put(out: Steps, file: number, at: number, view: Uint8Array): void {
  const from = addPut(out, file, at, view.length);
  out.scratch.set(view, from);
}
