// One XMPP client, as an application would run it: it logs in, comes back when
// its connection is lost, and says what happens to it.
//
// Standard input is a JSON object on a line:
//
//   with       "strophe" or "xmpp.js" in Node, "chromium" for Strophe.js in a
//              page of headless Chromium
//   service    the wss service; its host is at 127.0.0.1
//   jid, password
//   resume     ask for a stream that can be resumed (xmpp.js always does)
//   from       the address to connect from, in Node
//   headers    what to add to the opening handshake, in Node
//   chromium, home, page    for "chromium": see chromium.mjs, and the https
//              page to stand on
//
// and then commands, one on a line: { "say": [to, body] } and { "leave": true }.
//
// Standard output is a JSON object on a line for everything that happens:
//
//   { what: "connecting", url }
//   { what: "received", data }         every message of the WebSocket
//   { what: "closed", code, clean }    its CloseEvent
//   { what: "online", jid, resumed }
//   { what: "message", from, body }

import { createInterface } from 'node:readline';
import dns from 'node:dns';
import { readFileSync } from 'node:fs';
import { launch, tell } from './chromium.mjs';

console.debug = console.info = console.error; // Strophe.js's log; standard output is ours
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const task = JSON.parse((await lines.next()).value);

// obey does what the lines say until there are no more.
async function obey({ say, leave }) {
  for await (const line of lines) {
    const command = JSON.parse(line);
    if (command.say) await say(...command.say);
    if (command.leave) await leave();
  }
}

switch (task.with) {
  case 'strophe': {
    const library = await import('strophe.js'); // it sets globalThis.WebSocket
    await useNode();
    await obey(strophe(library, task, tell));
    break;
  }
  case 'xmpp.js':
    await useNode();
    await obey(await xmppjs(task));
    break;
  case 'chromium':
    await inChromium();
}
process.exit(); // clients may have timers

// useNode makes a WebSocket of this task's the one that libraries find.
async function useNode() {
  const { WebSocket } = await import('ws');
  const lookup = (host, options, done) => dns.lookup('127.0.0.1', options, done);
  globalThis.WebSocket = recorded(class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols, { lookup, localAddress: task.from, headers: task.headers });
      this.on('error', () => {}); // in a browser, one that nobody listens for ends nothing
    }
  }, tell);
}

// recorded is a WebSocket class that tells what it does. It runs in the page too.
function recorded(WebSocket, tell) {
  return class extends WebSocket {
    constructor(url, protocols) {
      tell({ what: 'connecting', url });
      super(url, protocols);
      this.addEventListener('message', ({ data }) => tell({ what: 'received', data }));
      this.addEventListener('close', ({ code, wasClean }) => tell({ what: 'closed', code, clean: wasClean }));
    }
  };
}

// strophe is an application with Strophe.js, in Node or in a page. To come back
// is the application's business there.
function strophe({ Strophe, $msg, $pres }, { service, jid, password, resume }, tell) {
  const comeback = 500; // milliseconds
  const connection = new Strophe.Connection(service, { enableStreamManagement: resume });
  let left = false;
  const heard = (stanza) => {
    const [body] = stanza.getElementsByTagName('body');
    tell({ what: 'message', from: stanza.getAttribute('from'), body: body?.textContent });
    return true;
  };
  const connect = () => {
    connection.reset();
    connection.connect(jid, password, (status) => {
      if (status === Strophe.Status.CONNECTED) {
        const resumed = connection.hasResumed();
        connection.addHandler(heard, null, 'message', 'chat');
        if (!resumed) connection.send($pres().tree());
        tell({ what: 'online', jid: connection.jid, resumed });
      } else if (status === Strophe.Status.DISCONNECTED && !left) {
        setTimeout(connect, comeback);
      }
    });
  };
  connect();
  return {
    say: (to, body) => connection.send($msg({ to, type: 'chat' }).c('body').t(body).tree()),
    leave: () => { left = true; connection.disconnect('bye'); },
  };
}

// xmppjs is the same with @xmpp/client, which comes back by itself.
async function xmppjs({ service, jid, password }) {
  const { client, xml } = await import('@xmpp/client');
  const [username, domain] = jid.split('@');
  const entity = client({ service, domain, username, password });
  entity.on('error', () => {}); // it goes on
  entity.on('stanza', (stanza) => {
    if (stanza.is('message')) tell({ what: 'message', from: stanza.attrs.from, body: stanza.getChildText('body') });
  });
  entity.on('online', async (jid) => {
    await entity.send(xml('presence'));
    tell({ what: 'online', jid: jid.toString(), resumed: false });
  });
  entity.streamManagement.on('resumed', () => tell({ what: 'online', jid: entity.jid.toString(), resumed: true }));
  entity.start().catch(() => {});
  return {
    say: (to, body) => entity.send(xml('message', { to, type: 'chat' }, xml('body', {}, body))),
    leave: () => entity.stop(),
  };
}

// inChromium is strophe in a page.
async function inChromium() {
  const library = readFileSync(new URL('../node_modules/strophe.js/dist/strophe.umd.min.js', import.meta.url), 'utf8');
  const hosts = [new URL(task.service).hostname];
  await launch({ executable: task.chromium, home: task.home, hosts, bypassCSP: true }, async (context) => {
    const page = await context.newPage();
    await context.exposeFunction('tell', tell);
    await page.goto(task.page);
    await page.evaluate(library);
    await page.evaluate(`window.WebSocket = (${recorded})(WebSocket, tell); undefined`);
    await page.evaluate(`window.client = (${strophe})(window.strophe ?? window, ${JSON.stringify(task)}, tell); undefined`);
    await obey({
      say: (to, body) => page.evaluate(([to, body]) => window.client.say(to, body), [to, body]),
      leave: () => page.evaluate(() => window.client.leave()),
    });
  });
}
