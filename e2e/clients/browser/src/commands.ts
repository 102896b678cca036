// The commands that the driver understands, one method each.

import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { type CertificateRequest, certificate } from './certificate.ts';
import { request } from './http.ts';
import type { JoinOptions, Report } from './protocol.ts';

/** Where the test page lives: a loopback name makes it a secure context; nothing listens there. */
const PAGE_ADDRESS = 'http://localhost/client';
/** Where the page finds the worker of end-to-end encryption. */
const WORKER_ADDRESS = 'http://localhost/encryption.js';

const FLAGS = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  '--autoplay-policy=no-user-gesture-required',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
  // The test page and the cluster are in different address spaces in the eyes of the browser. Its own
  // resolver waits seconds for servers that are not there before it reads /etc/hosts.
  '--disable-features=LocalNetworkAccessChecks,AsyncDns',
];

/** How to start the browser. */
export interface LaunchOptions {
  executable: string;
  /** Address of each host name that the resolver does not know. */
  hosts: Record<string, string>;
  /** Hashes of the public keys of certificates to take without their authority. */
  trustedKeys?: string[];
}

export interface NamedPage {
  page: string;
}

/** A browser and its tabs. */
export class Commands {
  private browser: Browser | undefined;
  private hosts: Record<string, string> = {};
  private readonly pages = new Map<string, { context: BrowserContext; page: Page; log: string[] }>();

  constructor(
    private readonly pageScript: string,
    private readonly workerScript: string,
  ) {}

  async launch({ executable, hosts, trustedKeys = [] }: LaunchOptions): Promise<{ version: string }> {
    this.hosts = hosts;
    const rules = Object.entries(hosts).map(([name, address]) => `MAP ${name} ${address}`);
    this.browser = await chromium.launch({
      executablePath: executable,
      headless: true,
      chromiumSandbox: process.getuid?.() !== 0,
      args: [
        ...FLAGS,
        `--host-resolver-rules=${rules.join(', ')}`,
        `--ignore-certificate-errors-spki-list=${trustedKeys.join(',')}`,
      ],
    });
    return { version: this.browser.version() };
  }

  /** Opens a tab: the test page, or any address. */
  async open({ page: name, url }: NamedPage & { url?: string }): Promise<null> {
    if (this.browser === undefined) {
      throw new Error('launch the browser first');
    }
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 720 } });
    const page = await context.newPage();
    const log: string[] = [];
    page.on('console', (message) => keep(log, `${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => keep(log, `pageerror: ${error.message}`));
    this.pages.set(name, { context, page, log });
    if (url === undefined) {
      await this.openTestPage(page);
    } else {
      await page.goto(url);
    }
    return null;
  }

  async join({ page, ...options }: NamedPage & JoinOptions): Promise<null> {
    await this.tab(page).evaluate((join) => window.client.join(join), options as JoinOptions);
    return null;
  }

  async leave({ page }: NamedPage): Promise<null> {
    await this.tab(page).evaluate(() => window.client.leave());
    return null;
  }

  async report({ page }: NamedPage): Promise<Report> {
    return this.tab(page).evaluate(() => window.client.report());
  }

  async gaps({ page }: NamedPage): Promise<Record<string, number>> {
    return this.tab(page).evaluate(() => window.client.gaps());
  }

  async send({ page, topic, text }: NamedPage & { topic: string; text: string }): Promise<null> {
    await this.tab(page).evaluate((message) => window.client.send(message.topic, message.text), { topic, text });
    return null;
  }

  async setMuted({ page, source, muted }: NamedPage & { source: string; muted: boolean }): Promise<null> {
    await this.tab(page).evaluate(
      (change) => window.client.setMuted(change.source as never, change.muted),
      { source, muted },
    );
    return null;
  }

  async fill({ page, selector, value }: NamedPage & { selector: string; value: string }): Promise<null> {
    await this.tab(page).fill(selector, value);
    return null;
  }

  async click({ page, selector }: NamedPage & { selector: string }): Promise<null> {
    await this.tab(page).click(selector);
    return null;
  }

  /** The value of an expression in the tab. */
  async evaluate({ page, expression }: NamedPage & { expression: string }): Promise<unknown> {
    return this.tab(page).evaluate(expression);
  }

  async screenshot({ page, path }: NamedPage & { path: string }): Promise<null> {
    await this.tab(page).screenshot({ path });
    return null;
  }

  /** What the tab wrote to its console. */
  async log({ page }: NamedPage): Promise<string[]> {
    return this.pages.get(page)?.log ?? [];
  }

  async close({ page }: NamedPage): Promise<null> {
    await this.pages.get(page)?.context.close();
    this.pages.delete(page);
    return null;
  }

  /** An HTTP request without the browser, with the same names for hosts. */
  async request(options: Parameters<typeof request>[0]): Promise<unknown> {
    return request(options, this.hosts);
  }

  /** The fingerprint of a server's certificate, with the same names for hosts. */
  async certificate(options: CertificateRequest): Promise<string> {
    return certificate(options, this.hosts);
  }

  /** Names for hosts without a browser. */
  async setHosts({ hosts }: { hosts: Record<string, string> }): Promise<null> {
    this.hosts = hosts;
    return null;
  }

  async quit(): Promise<null> {
    await this.browser?.close();
    return null;
  }

  private async openTestPage(page: Page): Promise<void> {
    const body = `<!doctype html><title>client</title><body><script>${this.pageScript}</script>`;
    await page.route(PAGE_ADDRESS, (route) => route.fulfill({ contentType: 'text/html', body }));
    const worker = { contentType: 'text/javascript', body: this.workerScript };
    await page.route(WORKER_ADDRESS, (route) => route.fulfill(worker));
    await page.goto(PAGE_ADDRESS);
  }

  private tab(name: string): Page {
    const tab = this.pages.get(name);
    if (tab === undefined) {
      throw new Error(`no tab is called ${name}`);
    }
    return tab.page;
  }
}

/** Lines of a tab's console that are kept. */
const LONGEST_LOG = 300;

function keep(log: string[], line: string): void {
  log.push(line);
  if (log.length > LONGEST_LOG) {
    log.shift();
  }
}
