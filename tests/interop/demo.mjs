// Drives the page of `wssgate demo` in headless Chromium: logs in on each
// host, lets the sessions write to each other, disconnects and reconnects, and
// waits for the gate's end.
//
// Standard input is one JSON object, a line:
//
//   chromium   path of the browser
//   home       its HOME; .pki/nssdb below it holds the CA to trust
//   pages      URLs of the page, one for each host
//
// Standard output is a JSON object on a line for each stage:
//
//   { stage: "online", sessions: [{ jid, self, heard, again, frames }], errors }
//   { stage: "closed", states: ["…"], errors }
//
// The second comes when the gate has closed the connections, which the caller
// sees to in between. Exit status 1 and a word on standard error if anything
// went wrong.

import { createInterface } from 'node:readline';
import { launch, tell } from './chromium.mjs';

const [line] = await new Promise((resolve) => createInterface(process.stdin).once('line', (l) => resolve([l])));
const task = JSON.parse(line);
const hosts = task.pages.map((url) => new URL(url).hostname);
const errors = [];

await launch({ executable: task.chromium, home: task.home, hosts }, async (context) => {
  const sessions = [];
  for (const url of task.pages) sessions.push(await open(context, url));
  for (const [i, s] of sessions.entries()) {
    const to = sessions[(i + 1) % sessions.length];
    await say(s.page, to.jid, `from ${s.jid}`);
    s.to = to;
  }
  for (const [i, s] of sessions.entries()) {
    const from = sessions[(i + sessions.length - 1) % sessions.length];
    s.heard = await heard(s.page, `from ${from.jid}`);
  }
  for (const s of sessions) {
    await s.page.click('#toggle');
    await s.page.waitForSelector('body[data-state=off]');
    s.goodbye = await s.page.locator('#log li', { hasText: '<close' }).count();
    s.frames = await s.page.locator('#log pre').count();
    await s.page.click('#toggle');
    s.again = await online(s.page);
  }
  tell({ stage: 'online', sessions: sessions.map(({ page, to, ...facts }) => facts), errors });
  const states = [];
  for (const s of sessions) {
    await s.page.waitForSelector('body[data-state=closed]');
    states.push(`${await s.page.textContent('#state')}. ${await s.page.textContent('#why')}`);
  }
  tell({ stage: 'closed', states, errors });
});

async function open(context, url) {
  const page = await context.newPage();
  page.on('pageerror', (e) => errors.push(`${url}: ${e.message}`));
  page.on('console', (m) => { if (m.type() === 'error') errors.push(`${url}: ${m.text()}`); });
  await page.goto(url);
  const jid = await online(page);
  await say(page, jid, 'to myself <&>');
  return { page, jid, self: await heard(page, 'to myself <&>') };
}

async function online(page) {
  await page.waitForSelector('body[data-state=online], body[data-state=closed]');
  const jid = await page.textContent('#jid');
  if (await page.getAttribute('body', 'data-state') !== 'online') throw new Error(`${page.url()}: ${await page.textContent('#why')}`);
  return jid;
}

async function say(page, to, text) {
  await page.fill('#to', to);
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

// heard waits for a message and returns what its bubble says of it.
async function heard(page, text) {
  const bubble = page.locator('.bubble:not(.mine)', { hasText: text });
  await bubble.waitFor();
  return bubble.innerText();
}
