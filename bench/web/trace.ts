/** What Chromium's own trace says of a page's main thread: its time by kind, as DevTools sorts it. */

/** Of the trace's JSON, what is looked at here. Times are in microseconds. */
interface TraceEvent {
  readonly name: string;
  readonly ph: string;
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur?: number;
  readonly args?: { readonly name?: string; readonly data?: { readonly url?: string } };
}

export interface Update {
  /** JavaScript with what it needs: compiling, garbage, parsing of JSON. */
  readonly scriptingMs: number;
  /** Styles, layout and painting. */
  readonly renderingMs: number;
}

type Kind = 'scripting' | 'rendering' | 'other';

const scripting =
  /^(EvaluateScript|FunctionCall|RunMicrotasks|TimerFire|FireAnimationFrame|FireIdleCallback|EventDispatch|XHR\w+|v8\..*|V8\..*|MinorGC|MajorGC|BlinkGC.*|CppGC.*|ParseJSON)$/;
const rendering =
  /^(UpdateLayoutTree|Layout|PrePaint|Paint|PaintImage|Layerize|Commit|UpdateLayer\w*|CompositeLayers|HitTest|ScheduleStyleRecalculation|InvalidateLayout|IntersectionObserver\w*)$/;

/**
 * The main thread's time between each request for that address and the next.
 * @param trace as Chromium wrote it @throws Error: it is not the trace of such a page
 */
export function updatesIn(trace: Buffer, address: string): Update[] {
  const { traceEvents: events } = JSON.parse(trace.toString('utf8')) as {
    traceEvents: TraceEvent[];
  };
  const asked = events
    .filter(({ name, args }) => name === 'ResourceSendRequest' && args?.data?.url === address)
    .toSorted((one, other) => one.ts - other.ts);
  const [first] = asked;
  if (first === undefined) throw new Error(`nobody asks for ${address} in this trace`);
  // The request is told of by the thread whose script makes it.
  const own = events
    .filter(({ ph, pid, tid }) => ph === 'X' && pid === first.pid && tid === first.tid)
    .toSorted((one, other) => one.ts - other.ts || (other.dur ?? 0) - (one.dur ?? 0));
  const spans = selfTimes(own);
  return asked.slice(0, -1).map(({ ts }, index) => {
    const end = asked[index + 1]?.ts ?? ts;
    const sum = (wanted: Kind): number =>
      spans
        .filter(({ kind, at }) => kind === wanted && at >= ts && at < end)
        .reduce((all, { us }) => all + us, 0) / 1000;
    return { scriptingMs: sum('scripting'), renderingMs: sum('rendering') };
  });
}

interface Span {
  readonly at: number;
  readonly kind: Kind;
  /** Without what is nested in it. */
  us: number;
}

/** Of each event its own time; what is of no known kind is of the kind that it is nested in. */
function selfTimes(events: readonly TraceEvent[]): Span[] {
  const open: { end: number; span: Span }[] = [];
  return events.map(({ name, ts, dur = 0 }) => {
    while ((open.at(-1)?.end ?? Infinity) <= ts) open.pop();
    const around = open.at(-1)?.span;
    const kind = scripting.test(name)
      ? 'scripting'
      : rendering.test(name)
        ? 'rendering'
        : (around?.kind ?? 'other');
    const span: Span = { at: ts, kind, us: dur };
    if (around !== undefined) around.us -= dur;
    open.push({ end: ts + dur, span });
    return span;
  });
}
