/** Throughput, latency and queue depth of the last minutes, of one disk or of all together. */
import type { VNode } from 'preact';
import { useContext, useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import type { Tick } from './model.ts';
import type { Rate } from './rates.ts';
import { ModelContext } from './view.ts';
import { countText, rateText, sizeText, timeText } from './words.ts';

interface Line {
  readonly name: string;
  readonly colour: '--line-1' | '--line-2';
  readonly of: (rate: Rate) => number | null;
}

interface Chart {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly text: (value: number) => string;
  /** How far apart the lines of its grid may be. */
  readonly steps: number[];
  /** What it comes to now. */
  readonly now: (rate: Rate) => string;
}

const DECIMAL = Array.from({ length: 10 }, (_, power) =>
  [1, 2, 5].map((n) => n * 10 ** power),
).flat();
const BINARY = Array.from({ length: 50 }, (_, power) => 2 ** power);

const charts: readonly Chart[] = [
  {
    title: 'Throughput',
    lines: [
      { name: 'read', colour: '--line-1', of: ({ readBytes }) => readBytes },
      { name: 'write', colour: '--line-2', of: ({ writeBytes }) => writeBytes },
    ],
    text: sizeText,
    steps: BINARY,
    now: ({ readBytes, writeBytes }) =>
      `read ${rateText(readBytes)}, write ${rateText(writeBytes)}`,
  },
  {
    title: 'Latency',
    lines: [{ name: 'mean', colour: '--line-1', of: ({ latencyUs }) => latencyUs }],
    text: timeText,
    steps: DECIMAL,
    now: ({ latencyUs }) => `mean ${timeText(latencyUs)}`,
  },
  {
    title: 'Queue depth',
    lines: [{ name: 'requests', colour: '--line-1', of: ({ underWay }) => underWay }],
    text: countText,
    steps: DECIMAL,
    now: ({ underWay, requests }) =>
      `${countText(underWay)} under way, ${countText(requests)} a second`,
  },
];

/** @param of a disk by its name; undefined: all disks */
export function Charts({ of }: { readonly of: string | undefined }): VNode {
  return (
    <div class="charts">
      {charts.map((chart) => (
        <ChartOf key={chart.title} chart={chart} of={of} />
      ))}
    </div>
  );
}

const HEIGHT = 110;

function ChartOf({ chart, of }: { readonly chart: Chart; readonly of: string | undefined }): VNode {
  const model = useContext(ModelContext);
  const place = useRef<HTMLDivElement>(null);
  const now = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    const folder = place.current;
    if (folder === null) return undefined;
    const rateOf = ({ rates, total }: Tick): Rate | undefined =>
      of === undefined ? total : rates.get(of);
    const dataOf = (): uPlot.AlignedData => [
      model.history.map(({ time }) => time),
      ...chart.lines.map((line) =>
        model.history.map((tick) => {
          const rate = rateOf(tick);
          return rate === undefined ? null : line.of(rate);
        }),
      ),
    ];
    const say = (tick: Tick | undefined): void => {
      const rate = tick && rateOf(tick);
      if (now.current === null) return;
      now.current.textContent = rate === undefined ? 'nothing is counted' : chart.now(rate);
    };
    using kept = new DisposableStack();
    let plot = draw(chart, folder, dataOf());
    kept.defer(() => plot.destroy());
    const drawAnew = (): void => {
      plot.destroy();
      plot = draw(chart, folder, dataOf());
    };
    const sizes = new ResizeObserver(() => {
      plot.setSize({ width: folder.clientWidth, height: HEIGHT });
    });
    sizes.observe(folder);
    kept.defer(() => sizes.disconnect());
    const dark = matchMedia('(prefers-color-scheme: dark)');
    dark.addEventListener('change', drawAnew);
    kept.defer(() => dark.removeEventListener('change', drawAnew));
    kept.use(
      model.onTick((tick) => {
        plot.setData(dataOf());
        say(tick);
      }),
    );
    say(model.history.at(-1));
    const owned = kept.move();
    return () => owned.dispose();
  }, [model, chart, of]);
  return (
    <figure>
      <figcaption>
        <b>{chart.title}</b> <span ref={now} />
      </figcaption>
      <div ref={place} class="plot" aria-hidden="true" />
    </figure>
  );
}

/** Seconds that are shown at least. */
const LEAST_SECONDS = 30;

/** Of no seconds yet: those until now. */
function rangeOf(low: number | null, high: number | null): [number, number] {
  const end = high ?? Date.now() / 1000;
  return [Math.min(low ?? end, end - LEAST_SECONDS), end];
}

function draw({ lines, text, steps }: Chart, folder: HTMLElement, data: uPlot.AlignedData): uPlot {
  const style = getComputedStyle(folder);
  const colour = (name: string): string => style.getPropertyValue(name);
  const axis = {
    stroke: style.color,
    grid: { stroke: colour('--grid'), width: 1 },
    ticks: { show: false },
    font: '11px sans-serif',
  };
  return new uPlot(
    {
      width: folder.clientWidth,
      height: HEIGHT,
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { range: (_, low, high) => rangeOf(low, high) },
        y: { range: (_, _low, high) => [0, high > 0 ? high * 1.1 : 1] },
      },
      axes: [
        { ...axis, size: 22, space: 80 },
        { ...axis, size: 62, space: 30, incrs: steps, values: (_, values) => values.map(text) },
      ],
      series: [
        {},
        ...lines.map(({ name, colour: variable }) => ({
          label: name,
          stroke: colour(variable),
          width: 1.5,
          points: { show: false },
        })),
      ],
    },
    data,
    folder,
  );
}
