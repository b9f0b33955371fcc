/** Metrics as Prometheus reads them: its text format, version 0.0.4. */

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly labels?: Labels;
  readonly value: number;
}

/** Counts of what was no more than a bound, bound by bound, what was more last; not yet added up. */
export interface Distribution {
  readonly labels?: Labels;
  readonly counts: readonly number[];
  readonly sum: number;
}

interface Told {
  readonly name: string;
  readonly help: string;
}

export type Family =
  | (Told & { readonly type: 'counter' | 'gauge'; readonly samples: readonly Sample[] })
  | (Told & {
      readonly type: 'histogram';
      readonly bounds: readonly number[];
      readonly samples: readonly Distribution[];
    });

export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** The families one after the other; what has no sample is left out. */
export function metricsPage(families: readonly Family[]): string {
  return families
    .filter(({ samples }) => samples.length > 0)
    .map((family) => {
      const { name, help, type } = family;
      return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${linesOf(family).join('')}`;
    })
    .join('');
}

function linesOf(family: Family): string[] {
  const { name } = family;
  if (family.type !== 'histogram') {
    return family.samples.map(({ labels = {}, value }) => line(name, labels, value));
  }
  return family.samples.flatMap(({ labels = {}, counts, sum }) => {
    let upTo = 0;
    const buckets = [...family.bounds, Infinity].map((bound, index) => {
      upTo += counts[index] ?? 0;
      return line(`${name}_bucket`, { ...labels, le: numberText(bound) }, upTo);
    });
    return [...buckets, line(`${name}_sum`, labels, sum), line(`${name}_count`, labels, upTo)];
  });
}

function line(name: string, labels: Labels, value: number): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escaped(text)}"`);
  const all = pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
  return `${name}${all} ${numberText(value)}\n`;
}

function numberText(value: number): string {
  return value === Infinity ? '+Inf' : String(value);
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
