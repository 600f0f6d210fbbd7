// Opens WebSockets in headless Chromium and says how each of them ends.
//
// Standard input is one JSON object, a line:
//
//   chromium   path of the browser
//   home       its HOME; .pki/nssdb below it holds the CA to trust
//   page       the https page to stand on
//   service    the wss service
//   cases      [{ text, size }]: what to send on a WebSocket of its own, a text
//              or a message of so many bytes; nothing of both: wait for the end
//
// Standard output is a JSON object on a line for each case, in their order:
// { code, reason, clean } of its CloseEvent. In front of a case that sends
// nothing stands the line "waiting".

import { createInterface } from 'node:readline';
import { launch, patience, tell } from './chromium.mjs';

const [line] = await new Promise((resolve) => createInterface(process.stdin).once('line', (l) => resolve([l])));
const task = JSON.parse(line);

await launch({ executable: task.chromium, home: task.home, hosts: [new URL(task.page).hostname], bypassCSP: true }, async (context) => {
  const page = await context.newPage();
  await page.goto(task.page);
  for (const { text, size } of task.cases) {
    await page.evaluate(openSocket, { service: task.service, patience });
    if (text) await page.evaluate((text) => window.socket.send(text), text);
    else if (size) await page.evaluate((size) => window.socket.send('x'.repeat(size)), size);
    else tell('waiting');
    tell(await page.evaluate(() => window.ending));
  }
});

// openSocket runs in the page. It leaves window.socket, open, and
// window.ending, a promise, behind.
function openSocket({ service, patience }) {
  const late = (what) => new Promise((_, fail) => setTimeout(() => fail(new Error(`not ${what} within ${patience} ms`)), patience));
  const socket = window.socket = new WebSocket(service, 'xmpp');
  window.ending = Promise.race([late('closed'), new Promise((resolve) => {
    socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, clean: wasClean });
  })]);
  window.ending.catch(() => {}); // asked for later
  return Promise.race([late('open'), new Promise((resolve, reject) => {
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error(`${service}: error before it was open`));
  })]);
}
