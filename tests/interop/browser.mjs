// Logs in to several vhosts with Strophe.js in headless Chromium and lets the
// clients write to each other in a ring.
//
// Standard input is one JSON object:
//
//   chromium   path of the browser
//   home       its HOME; .pki/nssdb below it holds the CA to trust
//   clients    [{ page, service, jid, password }]: the https page to stand on,
//              the wss service to log in to, the account
//
// Standard output is one JSON array, an object for each client: the page's
// status, text and certificate as the browser saw them, the JID that was bound
// and the message that came. Exit status 1 and a word on standard error if
// anything went wrong.

import { readFileSync } from 'node:fs';
import { launch, patience, tell } from './chromium.mjs';

const strophe = readFileSync(new URL('../node_modules/strophe.js/dist/strophe.umd.min.js', import.meta.url), 'utf8');
const task = JSON.parse(readFileSync(0, 'utf8'));
const hosts = task.clients.map((c) => new URL(c.page).hostname);

await launch({ executable: task.chromium, home: task.home, hosts, bypassCSP: true }, async (context) => {
  const clients = [];
  for (const c of task.clients) clients.push(await open(context, c));
  for (const [i, c] of clients.entries()) {
    const to = clients[(i + 1) % clients.length];
    await c.page.evaluate(([jid, body]) => window.say(jid, body), [to.jid, `from ${c.jid}`]);
  }
  for (const c of clients) c.message = await c.page.evaluate(() => window.heard);
  for (const c of clients) await c.page.evaluate(() => window.leave());
  tell(clients.map(({ page, ...facts }) => facts));
});

// open stands on the client's page and logs in from there.
async function open(context, { page: url, service, jid, password }) {
  const page = await context.newPage();
  const response = await page.goto(url);
  const certificate = await response.securityDetails();
  const facts = { page, status: response.status(), text: await response.text(), certificate };
  await page.evaluate(strophe);
  facts.jid = await page.evaluate(login, { service, jid, password, patience });
  return facts;
}

// login runs in the page. It leaves window.say, window.heard (a promise) and
// window.leave behind and returns the full JID.
function login({ service, jid, password, patience }) {
  const { Strophe, $msg, $pres } = window.strophe ?? window;
  const connection = new Strophe.Connection(service);
  const late = (what) => new Promise((_, fail) => setTimeout(() => fail(new Error(`${jid}: no ${what} within ${patience} ms`)), patience));
  window.say = (to, body) => connection.send($msg({ to, type: 'chat' }).c('body').t(body).tree());
  window.heard = Promise.race([late('message'), new Promise((resolve) => {
    connection.addHandler((stanza) => {
      resolve({ from: stanza.getAttribute('from'), body: stanza.querySelector('body')?.textContent });
      return true;
    }, null, 'message', 'chat');
  })]);
  window.heard.catch(() => {}); // asked for later
  const ended = new Promise((resolve) => { window.ended = resolve; });
  window.leave = () => { connection.disconnect('bye'); return Promise.race([late('end'), ended]); };
  return Promise.race([late('login'), new Promise((resolve, reject) => {
    connection.connect(jid, password, (status, condition) => {
      switch (status) {
        case Strophe.Status.CONNECTED:
          connection.send($pres().tree());
          resolve(connection.jid);
          break;
        case Strophe.Status.AUTHFAIL:
        case Strophe.Status.CONNFAIL:
        case Strophe.Status.ERROR:
          reject(new Error(`${jid} at ${service}: status ${status}: ${condition}`));
          break;
        case Strophe.Status.DISCONNECTED:
          window.ended();
          reject(new Error(`${jid} at ${service}: disconnected: ${condition}`));
      }
    });
  })]);
}
