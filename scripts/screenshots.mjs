// What scripts/screenshots does in the browser.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(`${process.env.TOOLS}/`);
const { chromium } = require('playwright-core');
const axe = require.resolve('axe-core/axe.min.js');
const [url] = process.argv.slice(2);
const out = process.env.OUT;
const faults = [];

async function until(what, ask) {
  for (let tries = 0; tries < 150; tries++) {
    const answer = await ask().catch(() => undefined);
    if (answer) return answer;
    await sleep(200);
  }
  throw new Error(`waited in vain: ${what}`);
}

const json = async (path, options) => (await fetch(url + path, { headers: { accept: 'application/json' }, ...options })).json();

// A receiver that fails: something to see on the pages of webhooks.
const receiver = createServer((_, answer) => {
  answer.writeHead(503, { 'content-type': 'text/html' });
  answer.end('<script>alert("from the receiver")</script> maintenance');
});
await new Promise((done) => receiver.listen(0, '127.0.0.1', done));
await until('the gateway', async () => (await json('/readyz')).journal.position > 20);
const failing = await json('/webhooks', {
  method: 'POST',
  headers: { 'content-type': 'application/json' },
  body: JSON.stringify({
    url: `http://127.0.0.1:${receiver.address().port}/orders`, description: 'The order service, which is down',
    from: 'beginning', filter: { types: ['CheckedOut'] },
  }),
});
await until('the quarantine', async () => (await json('/sources/cart')).quarantined === 2);
await until('failures', async () => (await json(`/webhooks/${failing.id}/deliveries?status=failing`)).items.length > 0);
const delivery = (await json(`/webhooks/${failing.id}/deliveries?status=failing`)).items[0];
const [event] = (await json('/graphql?query={events(last:1,filter:{types:["CheckedOut"]}){nodes{id}}}')).data.events.nodes;

const pages = {
  overview: '/console', sources: '/console/sources', source: '/console/sources/cart', journal: '/console/events',
  search: '/console/events?type=CheckedOut&order=oldest', event: `/console/events/${event.id}`, feeds: '/console/feeds',
  webhooks: '/console/webhooks', webhook: `/console/webhooks/${failing.id}`,
  delivery: `/console/webhooks/${failing.id}/deliveries/${delivery.eventId}`, clients: '/console/clients',
  problem: '/console/events/nothing', docs: '/docs',
};
const looks = {
  light: { viewport: { width: 1280, height: 900 }, colorScheme: 'light' },
  dark: { viewport: { width: 1280, height: 900 }, colorScheme: 'dark' },
  small: { viewport: { width: 360, height: 740 }, colorScheme: 'light', deviceScaleFactor: 2 },
};

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
for (const [look, options] of Object.entries(looks)) {
  // The policy keeps foreign scripts out, axe too; whether it holds is seen in `errors`.
  const context = await browser.newContext({ ...options, bypassCSP: true });
  for (const [name, path] of Object.entries(pages)) {
    const page = await context.newPage();
    await page.goto(url + path);
    await page.screenshot({ path: `${out}/${name}-${look}.png`, fullPage: name !== 'docs' });
    await page.addScriptTag({ path: axe });
    const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
    for (const { id, help, nodes } of violations) {
      faults.push(`${name} ${look}: ${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(' | ')}`);
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
    if (wide) faults.push(`${name} ${look}: wider than the window`);
    await page.close();
  }
  await context.close();
}

// As operators use it: with the policy in force.
const context = await browser.newContext(looks.light);
const page = await context.newPage();
page.on('console', (message) => { if (message.type() === 'error' && !/404/.test(message.text())) faults.push(`the browser says: ${message.text()}`); });
page.on('pageerror', (error) => faults.push(`the page's script: ${error}`));
page.on('dialog', (dialog) => { faults.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
for (const path of Object.values(pages)) await page.goto(url + path);
await page.goto(url + pages.overview);
const position = () => page.locator('.figures dd').first().textContent();
const before = await position();
await until('the overview to stay fresh', async () => (await position()) !== before);
await page.keyboard.press('Tab');
await page.screenshot({ path: `${out}/focus.png` });
await page.goto(url + pages.webhook);
await page.getByRole('button', { name: 'Pause' }).click();
await page.getByRole('status').getByText('is paused').waitFor();
await page.screenshot({ path: `${out}/paused.png` });
await page.getByText('Replay…').click();
await page.screenshot({ path: `${out}/replay.png` });
await page.getByText('Rotate the secret…').click();
await page.getByRole('button', { name: 'Rotate the secret' }).click();
await page.getByText('whsec_').waitFor();
await page.screenshot({ path: `${out}/secret.png` });
await browser.close();
receiver.close();
receiver.closeAllConnections();

console.log(faults.length ? faults.join('\n') : `no barrier, no error; pictures are in ${out}`);
process.exitCode = faults.length ? 1 : 0;
