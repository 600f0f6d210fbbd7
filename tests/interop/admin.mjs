// Looks at the admin page with headless Chromium and says what it shows.
//
// Standard input is one JSON object:
//
//   chromium   path of the browser
//   home       its HOME, empty
//   map        names that resolve to 127.0.0.1
//   steps      what to do, one after the other, each on a page of its own
//              unless "page" names one that is open:
//     { page, open: URL, scheme: 'dark', size: [width, height] }   and wait for an answer of the gate
//     { page, login: TOKEN }
//     { page, choose: 'vhost a' }        in the list of what can be drained
//     { page, press: 'Reload', confirm: true }
//     { page, until: 'text' }            wait until the page shows the text
//     { page, shot: FILE, whole: true }  a picture of the window, or of the whole page
//     { page, see: true }                gives what the page shows
//     { page, run: 'an expression' }     gives its value
//
// Standard output is one JSON array, an object for each step: { text, verdict,
// title, wide } for see, { value } for run. Errors of a page, those of its
// content security policy among them, come back in { errors } of see.

import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const patience = 120_000; // milliseconds; only a broken page takes that long
const task = JSON.parse(readFileSync(0, 'utf8'));
const browser = await chromium.launch({
  executablePath: task.chromium,
  headless: true,
  timeout: patience,
  env: { ...process.env, HOME: task.home, XDG_CONFIG_HOME: `${task.home}/.config`, XDG_CACHE_HOME: `${task.home}/.cache` },
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--no-proxy-server', '--font-render-hinting=none',
    `--host-resolver-rules=${(task.map ?? []).map((name) => `MAP ${name} 127.0.0.1`).join(',') || 'MAP unused.test 127.0.0.1'}`,
  ],
});

const pages = new Map();
const results = [];
try {
  for (const step of task.steps) results.push(await act(step));
  console.log(JSON.stringify(results));
} finally {
  await browser.close();
}

async function act(step) {
  if (step.open) {
    const [width, height] = step.size ?? [1200, 900];
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: step.scheme ?? 'light', deviceScaleFactor: step.scale ?? 1, locale: 'en-GB', timezoneId: 'UTC' });
    const page = await context.newPage();
    page.setDefaultTimeout(patience);
    page.problems = [];
    page.on('pageerror', (err) => page.problems.push(String(err)));
    page.on('console', (message) => { if (message.type() === 'error') page.problems.push(message.text()); });
    pages.set(step.page, page);
    const answer = await page.goto(step.open);
    return { value: answer.status() };
  }
  const page = pages.get(step.page);
  if (step.login !== undefined) {
    await page.fill('#login input', step.login);
    await page.click('#login button');
  } else if (step.choose) {
    await page.selectOption('#drain select', { label: step.choose });
  } else if (step.press) {
    await page.click(`main button:text-is("${step.press}")`);
    if (step.confirm) await page.click('#confirm button.danger');
  } else if (step.until) {
    await page.waitForFunction((text) => document.body.innerText.includes(text), step.until);
  } else if (step.shot) {
    await page.screenshot({ path: step.shot, fullPage: step.whole ?? false });
  } else if (step.see) {
    return page.evaluate(() => ({
      text: document.body.innerText,
      verdict: document.querySelector('#verdict')?.className,
      title: document.title,
      wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    })).then((facts) => ({ ...facts, errors: page.problems }));
  } else if (step.run) {
    return { value: await page.evaluate(step.run) };
  }
  return {};
}
