/**
 * `npm run bench -- web`: what a second of the web page costs the browser, as Chromium's own trace
 * tells, with many disks that are all at work.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Failure } from '../src/base/failure.ts';
import { silentLog } from '../src/base/log.ts';
import { formatTable } from '../src/cli/table.ts';
import { readPageFiles } from '../src/daemon/page-files.ts';
import { servePage } from '../src/daemon/page-door.ts';
import { needsChromium, openBrowser } from '../test/page/page-kit.ts';
import { formatTime, median, rounded } from './figures.ts';
import { busyApi } from './web/busy-api.ts';
import { type Update, updatesIn } from './web/trace.ts';

/** In the first seconds the browser compiles what it runs. */
const WARM_MS = 5000;
const QUICK_WARM_MS = 500;

/** Measures, prints a table and, last, one line of JSON. */
export async function benchWeb(args: string[], signal: AbortSignal): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      quick: { type: 'boolean', default: false },
      seconds: { type: 'string', default: '12' },
    },
  });
  const { skip: missing } = needsChromium();
  if (missing !== false) throw new Failure('unavailable', missing);
  const seconds = values.quick ? 3 : Number(values.seconds);
  const warmMs = values.quick ? QUICK_WARM_MS : WARM_MS;
  const rows: (string | null)[][] = [];
  const figures: Record<string, number> = {};
  for (const { disks, events } of values.quick ? quickScenes : scenes) {
    signal.throwIfAborted();
    const found = await measure({ disks, events, warmMs, seconds });
    const scripting = found.map(({ scriptingMs }) => scriptingMs);
    // A second's figures are an update, and each event is one.
    const ofUpdate = sum(scripting) / (found.length * (1 + events));
    const rendering = median(found.map(({ renderingMs }) => renderingMs));
    const times = [ofUpdate, median(scripting), Math.max(...scripting), rendering];
    rows.push([String(disks), String(events), ...times.map(formatTime)]);
    const name = `${disks}_disks_${events}_events`;
    figures[`update_ms_${name}`] = rounded(ofUpdate);
    figures[`second_ms_${name}`] = rounded(median(scripting));
    figures[`rendering_ms_${name}`] = rounded(rendering);
  }
  const bytes = sum([...(await readPageFiles()).values()].map((file) => file.bytes.length));
  const headings = [
    'disks',
    'events/s',
    'scripting of an update',
    'of a second',
    'of the worst',
    'rendering of a second',
  ];
  const said = { bench: 'web', page_bytes: bytes, ...figures };
  process.stdout.write(`${formatTable(headings, rows)}${JSON.stringify(said)}\n`);
}

/** All disks are at work in each. */
const scenes = [
  { disks: 50, events: 0 },
  { disks: 500, events: 0 },
  { disks: 500, events: 2 },
  { disks: 1000, events: 2 },
];
const quickScenes = [{ disks: 20, events: 2 }];

function sum(values: readonly number[]): number {
  return values.reduce((all, each) => all + each, 0);
}

interface Scene {
  readonly disks: number;
  /** A second. */
  readonly events: number;
  readonly warmMs: number;
  readonly seconds: number;
}

async function measure({ disks, events, warmMs, seconds }: Scene): Promise<Update[]> {
  const config = { page_listen: '127.0.0.1:0', page_hosts: [], page_token: '' };
  const load = async () => busyApi(disks, events);
  await using door = await servePage(config, load, silentLog);
  await using browser = await openBrowser();
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const address = `http://127.0.0.1:${door.port}`;
  await page.goto(address);
  await page.getByText(`${disks} disks`).waitFor();
  await sleep(warmMs);
  const categories = ['devtools.timeline', 'v8', 'v8.execute'];
  await browser.startTracing(page, { categories });
  // A second of the page begins with this request: one more of them than there are seconds.
  for (let n = 0; n <= seconds; n++) await page.waitForRequest(`${address}/v1/load`);
  return updatesIn(await browser.stopTracing(), `${address}/v1/load`);
}
