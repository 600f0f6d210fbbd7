// What every script here does with the browser.

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

export const patience = 120_000; // milliseconds; only a broken gate takes that long

// tell writes one line of JSON for the caller.
export function tell(what) { console.log(JSON.stringify(what)); }

// launch starts headless Chromium with a HOME of its own, whose .pki/nssdb says
// which CA to trust, and with no network but 127.0.0.1, where the hosts are. It
// calls use with the browser's context and ends the browser behind it.
//
// bypassCSP is for scripts that stand in for a web application of their own on
// a page of the gate's.
export async function launch({ executable, home, hosts, bypassCSP = false }, use) {
  const profile = mkdtempSync(join(home, 'profile-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: executable,
    headless: true,
    timeout: patience,
    bypassCSP,
    env: { ...process.env, HOME: home, XDG_CONFIG_HOME: join(home, '.config'), XDG_CACHE_HOME: join(home, '.cache') },
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--no-proxy-server',
      `--host-resolver-rules=${hosts.map((h) => `MAP ${h} 127.0.0.1`).join(',')},MAP * ~NOTFOUND`,
    ],
  });
  context.setDefaultTimeout(patience);
  try {
    await use(context);
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}
