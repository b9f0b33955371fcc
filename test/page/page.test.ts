/** The web page in a real Chromium, before a vbdd of the embedded host. */
import assert from 'node:assert/strict';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { createFileTable } from '../../src/image/file-table.ts';
import { createImage } from '../../src/image/open.ts';
import type { Guest } from '../../src/host/embedded-host.ts';
import { spec } from '../daemon/tap-kit.ts';
import { needsChromium, openBrowser, type PageKit, startPageKit, TOKEN } from './page-kit.ts';

const options = needsChromium();
const WAIT_MS = 20_000;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Whoever makes a guest chooses its name. */
const EVIL = '<b onclick=alert(1)>evil';

let own: PageKit;
let stack: AsyncDisposableStack;
let browser: Browser;
let page: Page;
let web: Guest;
let evil: Guest;
let child: string;
/** All that any page has asked for, and what its console said. */
const asked: string[] = [];
const complaints: string[] = [];

before(async () => {
  if (options.skip !== false) return;
  await using opening = new AsyncDisposableStack();
  own = opening.use(await startPageKit());
  const { host } = own.kit;
  web = await host.createGuest({ name: 'web' });
  const base = own.kit.image('base.qcow2', 'qcow2');
  const seed = await host.createGuest({ name: 'seed' });
  await seed.attach(spec('qcow2', base));
  await (await seed.disk('xvda')).write(4096, new Uint8Array(1 << 20).fill(1));
  await seed.shutdown();
  await own.kit.vbdd.disks.settled();
  child = join(host.dir, 'child.qcow2');
  using files = createFileTable();
  const backing = { path: base, format: 'qcow2' } as const;
  createImage(child, { format: 'qcow2', backing, options: {}, files });
  await web.attach(spec('qcow2', child));
  await (await web.disk('xvda')).write(0, new Uint8Array(1 << 20).fill(2));
  const drive = 'backendtype=tap,vdev=xvdd,devtype=cdrom,script=block-vbd,target=';
  evil = await host.createGuest({ name: EVIL, disks: [drive] });
  await evil.attach(`vdev=xvda,script=block-vbd,target=${raw('evil.img')}`);
  browser = opening.use(await openBrowser());
  page = await newPage();
  stack = opening.move();
});
after(() => stack?.disposeAsync());

function raw(name: string): string {
  const path = join(own.kit.host.dir, name);
  writeFileSync(path, '');
  truncateSync(path, 1 << 20);
  return path;
}

async function newPage(how: Parameters<Browser['newPage']>[0] = {}): Promise<Page> {
  const opened = await browser.newPage(how);
  opened.setDefaultTimeout(WAIT_MS);
  opened.on('request', (request) => asked.push(request.url()));
  opened.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  opened.on('pageerror', (error) => complaints.push(String(error)));
  await opened.goto(own.address);
  await opened.getByRole('link', { name: 'xvda' }).first().waitFor();
  return opened;
}

const placeOf = (domid: number, devid: number): string => `#/disk/${domid}/${devid}`;
const [XVDA, XVDD] = [51_712, 51_760];

async function openPlace(place: string, opened = page): Promise<void> {
  await opened.evaluate(`location.hash = ${JSON.stringify(place)}`);
}

async function shows(text: string | RegExp, opened = page): Promise<void> {
  await opened.getByText(text).first().waitFor();
}

test('guests and their disks are shown, and what they do at the moment', options, async () => {
  const disk = await web.disk('xvda');
  const row = page.getByRole('row', { name: child });
  await row.getByText('attached').waitFor();
  await shows('3 disks, 2 guests');
  const enough = new AbortController();
  const work = (async () => {
    while (!enough.signal.aborted) await disk.write(0, new Uint8Array(1 << 18));
  })();
  try {
    await row.getByText(/[\d.]+ [KM]iB\/s/).waitFor();
    await row.getByText(/[\d.]+ (µs|ms)/).waitFor();
    await page
      .locator('figcaption')
      .getByText(/write [\d.]+ [KM]iB\/s/)
      .waitFor();
    assert.equal(await page.locator('.plot canvas').count(), 3);
  } finally {
    enough.abort();
    await work;
  }
});

test('a name that a stranger chose is text, and nothing else', options, async () => {
  await page.getByText(EVIL, { exact: true }).waitFor();
  assert.equal(await page.locator('[onclick]').count(), 0);
});

test(
  'what happens is shown when it does, without the page being loaded anew',
  options,
  async () => {
    await page.evaluate('window.isTheSame = true');
    await web.attach(`vdev=xvdb,script=block-vbd,target=${raw('late.img')}`);
    await page.getByRole('row', { name: /late\.img/ }).waitFor();
    await openPlace('#/events');
    await page.getByRole('listitem').filter({ hasText: 'late.img' }).first().waitFor();
    await web.detach('xvdb');
    await page
      .getByRole('listitem')
      .filter({ hasText: /gone xvdb of web/ })
      .waitFor();
    await openPlace('#/');
    await shows('3 disks, 2 guests');
    assert.equal(await page.evaluate('window.isTheSame'), true);
  },
);

test('an image is below its parent, with the disk that has it', options, async () => {
  await openPlace('#/chains');
  const parent = page.getByRole('listitem').filter({ hasText: 'base.qcow2' }).first();
  const below = parent.getByRole('listitem').filter({ hasText: 'child.qcow2' });
  await below.getByRole('link', { name: 'xvda of web (w)' }).click();
  await page.getByRole('heading', { name: 'xvda of web' }).waitFor();
});

test('a disk tells why it is so, who shares it, and where its bytes are', options, async () => {
  await openPlace(placeOf(web.domid, XVDA));
  await shows('because it is connected');
  await shows(`guest web (domid ${web.domid}) as xvda`);
  await shows(/Of 8\.00 MiB: 1\.00 MiB in the image itself, 1\.00 MiB from its parents/);
  const map = page.getByRole('img', { name: /in the image itself/ });
  // 8 KiB are a square: 128 of its own, 128 of its parent, side by side in two places.
  const squares = (shade: string): Promise<number> =>
    map.locator(`path.${shade}`).evaluate((path) => path.getAttribute('d')?.split('M').length ?? 0);
  assert.deepEqual([await squares('own-4'), await squares('below-4')], [129, 129]);
});

test('who has no token may not change anything; who gives it may', options, async () => {
  const change = page.getByRole('heading', { name: 'Change it' });
  assert.equal(await change.count(), 0);
  await page.getByRole('button', { name: 'Read-only' }).click();
  await page.getByLabel('Token', { exact: true }).fill(`${TOKEN}x`);
  await page.getByRole('button', { name: 'Use it' }).click();
  await shows('that is not the admin token — see page_token in vbdkit.conf');
  assert.equal(await change.count(), 0);
  await page.getByLabel('Token', { exact: true }).fill(TOKEN);
  await page.keyboard.press('Enter');
  await change.waitFor();
  await page.getByRole('button', { name: 'Pause' }).click();
  await shows('pause: done');
  await shows(/an admin has paused it/);
  await page.getByRole('button', { name: 'Resume' }).click();
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  await page.getByLabel('Requests a second').fill('1000');
  await page.getByRole('button', { name: 'Limit' }).click();
  await shows('limit: done');
  const { vbdd } = own.kit;
  const limits = vbdd.world.tap?.statistics(`vbd3-${web.domid}-${XVDA}`)?.limits;
  assert.equal(limits?.iops, 1000);
  assert.deepEqual(await seriousFindings(page, 'as an admin'), []);
  await page.getByRole('button', { name: 'Detach …' }).click();
  assert.deepEqual(await seriousFindings(page, 'in a dialog'), []);
  await page.keyboard.press('Escape');
  await openPlace(placeOf(evil.domid, XVDD));
  const medium = raw('cd.iso');
  await page.getByLabel('Image for the drive').fill(medium);
  await page.getByRole('button', { name: 'Insert' }).click();
  await shows('insert: done');
  await page.locator('dd').getByText(medium).waitFor();
  await page.getByRole('button', { name: 'Eject' }).click();
  await shows('eject: done');
  await page.locator('dd').getByText(medium).waitFor({ state: 'detached' });
  await page.getByRole('button', { name: 'sign out' }).click();
  await page.getByRole('button', { name: 'Read-only' }).waitFor();
  assert.equal(await change.count(), 0);
});

const places = (): string[] => ['#/', '#/chains', '#/events', placeOf(web.domid, XVDA)];

interface Found {
  readonly violations: readonly { id: string; impact: string; nodes: { html: string }[] }[];
}

/** What axe finds that would keep people out. */
async function seriousFindings(opened: Page, where: string): Promise<string[]> {
  await opened.evaluate(axe);
  const { violations } = await opened.evaluate<Found>("axe.run({ resultTypes: ['violations'] })");
  return violations
    .filter(({ impact }) => impact === 'serious' || impact === 'critical')
    .map(({ id, nodes }) => `${where} ${id}: ${nodes.map(({ html }) => html).join(', ')}`);
}

for (const colorScheme of ['light', 'dark'] as const) {
  test(
    `${colorScheme}: axe finds nothing serious, at a desk or on a telephone`,
    options,
    async () => {
      const opened = await newPage({ colorScheme, viewport: { width: 360, height: 640 } });
      const [red = ''] = await opened.evaluate<string[]>(
        'getComputedStyle(document.body).backgroundColor.match(/\\d+/g)',
      );
      assert.equal(Number(red) < 128, colorScheme === 'dark');
      for (const place of places()) {
        await openPlace(place, opened);
        await opened.getByRole('heading', { level: 1 }).waitFor();
        if (place.includes('disk')) await shows(/Of 8\.00 MiB/, opened);
        const width = await opened.evaluate<number>('document.documentElement.scrollWidth');
        assert.ok(width <= 360, `${place} is ${width} wide`);
        assert.deepEqual(await seriousFindings(opened, place), []);
      }
      await opened.close();
    },
  );
}

test('all of it is reached with the keyboard', options, async () => {
  const opened = await newPage();
  const reached: string[] = [];
  for (let tabs = 0; tabs < 8; tabs++) {
    await opened.keyboard.press('Tab');
    const at = 'document.activeElement';
    reached.push(await opened.evaluate(`${at}.textContent || ${at}.type`));
  }
  assert.deepEqual(reached.slice(0, 7), [
    'vbdkit',
    'Guests',
    'Chains',
    'Events',
    'Read-only',
    'search',
    'xvda',
  ]);
  await opened.keyboard.press('Shift+Tab');
  await opened.keyboard.press('Enter');
  await opened.getByRole('heading', { name: 'xvda of' }).waitFor();
  assert.equal(await opened.evaluate('document.activeElement.tagName'), 'MAIN');
  await opened.close();
});

/** As the browser does when another tab is chosen. */
async function hide(opened: Page, isHidden: boolean): Promise<void> {
  await opened.evaluate(`{
    Object.defineProperty(document, 'hidden', { value: ${isHidden}, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }`);
}

test('tabs that nobody sees leave their connections to the one that is seen', options, async () => {
  const context = await browser.newContext();
  const open = async (): Promise<Page> => {
    const opened = await context.newPage();
    opened.setDefaultTimeout(WAIT_MS);
    await opened.goto(own.address);
    await opened.getByRole('link', { name: 'xvda' }).first().waitFor();
    return opened;
  };
  const first = await open();
  await hide(first, true);
  for (let tabs = 1; tabs < 7; tabs++) await hide(await open(), true);
  await web.attach(`vdev=xvdb,script=block-vbd,target=${raw('unseen.img')}`);
  assert.equal(await first.getByRole('row', { name: /unseen\.img/ }).count(), 0);
  await hide(first, false);
  await first.getByRole('row', { name: /unseen\.img/ }).waitFor();
  await web.detach('xvdb');
  await first.getByRole('row', { name: /unseen\.img/ }).waitFor({ state: 'detached' });
  await context.close();
});

test('what happens while the list of disks is under way is not forgotten', options, async () => {
  const opened = await browser.newPage();
  opened.setDefaultTimeout(WAIT_MS);
  const { promise: isOld, resolve } = Promise.withResolvers<void>();
  await opened.route('**/v1/disks', async (route) => {
    const response = await route.fetch();
    await web.attach(`vdev=xvdb,script=block-vbd,target=${raw('between.img')}`);
    await opened.waitForTimeout(500);
    await route.fulfill({ response });
    resolve();
  });
  await opened.goto(own.address);
  await isOld;
  await opened.getByRole('row', { name: child }).waitFor();
  await opened.getByRole('row', { name: /between\.img/ }).waitFor();
  await web.detach('xvdb');
  await opened.close();
});

test('a token that is another now is said to be', options, async () => {
  const opened = await newPage();
  await opened.getByRole('button', { name: 'Read-only' }).click();
  await opened.getByLabel('Token', { exact: true }).fill(TOKEN);
  await opened.keyboard.press('Enter');
  await opened.getByRole('button', { name: 'sign out' }).waitFor();
  // Of what is denied for another reason the token is not the cause.
  const [status, message] = [403, '/srv/a.img may not be opened'];
  const json = { error: { kind: 'denied', message } };
  await opened.route('**/map*', (route) => route.fulfill({ status, json }));
  await opened.getByRole('link', { name: 'xvda' }).first().click();
  await opened.getByText(message).waitFor();
  await opened.getByRole('button', { name: 'sign out' }).waitFor();
  writeFileSync(own.tokenFile, 'another-token-of-some-length');
  const alert = opened.getByRole('alert');
  await alert.getByText(/^that is not the admin token/).waitFor();
  await opened.getByRole('button', { name: 'Read-only' }).waitFor();
  await opened.waitForResponse((answer) => answer.url().endsWith('/v1/load') && answer.ok());
  writeFileSync(own.tokenFile, TOKEN);
  await opened.close();
});

test(
  'a page that nobody sees asks nothing; one whose vbdd ends waits for the next',
  options,
  async () => {
    const opened = await newPage();
    let looks = 0;
    opened.on('request', (request) => {
      if (request.url().endsWith('/v1/load')) looks += 1;
    });
    await opened.waitForRequest('**/v1/load');
    await hide(opened, true);
    looks = 0;
    await opened.waitForTimeout(1500);
    assert.equal(looks, 0);
    await hide(opened, false);
    await opened.waitForRequest('**/v1/load');
    await own.restart(async () => {
      await shows(/what is shown is from before/, opened);
      await web.attach(`vdev=xvdd,script=block-vbd,target=${raw('meanwhile.img')}`);
    });
    await opened.getByRole('row', { name: /meanwhile\.img/ }).waitFor();
    await opened.getByText('Live').waitFor({ state: 'attached' });
    await web.detach('xvdd');
    await opened.close();
  },
);

test('a script that came in all the same is not run, and asks nobody', options, async () => {
  const opened = await newPage();
  const refused = await opened.evaluate<string>(`(() => {
    const script = document.createElement('script');
    try {
      script.textContent = 'window.isIn = true';
      document.body.append(script);
    } catch (thrown) {
      return thrown.name + ' ' + window.isIn;
    }
    return 'put ' + window.isIn;
  })()`);
  assert.equal(refused, 'TypeError undefined');
  const asking = await opened.evaluate<string>(
    `fetch('http://127.0.0.1:1/', { mode: 'no-cors' }).then(() => 'asked', () => 'refused')`,
  );
  assert.equal(asking, 'refused');
  assert.ok(complaints.some((text) => text.includes('Content Security Policy')));
  await opened.close();
  // What is told of it late is told by now.
  complaints.length = 0;
});

test(
  'nothing is asked of anyone else, and all of it is no more than 200 KiB',
  options,
  async () => {
    const opened = await browser.newPage();
    const bodies: Promise<Buffer>[] = [];
    opened.on('response', (response) => {
      if (!response.url().includes('/v1/')) bodies.push(response.body());
    });
    await opened.goto(own.address, { waitUntil: 'load' });
    await opened.getByRole('link', { name: 'xvda' }).first().waitFor();
    const bytes = (await Promise.all(bodies)).reduce((sum, { length }) => sum + length, 0);
    assert.ok(bytes > 50_000 && bytes <= 200 * 1024, `${bytes} bytes`);
    const others = asked.filter((url) => !url.startsWith(`${own.address}/`));
    assert.deepEqual(others, []);
    assert.deepEqual(
      complaints.filter((text) => !/403|ERR_(CONNECTION_REFUSED|INCOMPLETE|EMPTY)/.test(text)),
      [],
    );
  },
);
