// Plain HTTP, and the first half of a WebSocket: what a server answers to an upgrade.

import * as plain from 'node:http';
import * as secure from 'node:https';

/** Bodies are cut at this many bytes. */
const LARGEST_BODY = 1 << 20;

const TIMEOUT_MS = 15_000;

export interface HttpRequest {
  method: string;
  url: string;
  headers?: Record<string, string>;
  body?: string;
  /** Ask for a WebSocket; status 101 closes it at once. */
  upgrade?: boolean;
}

export interface HttpAnswer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

/** Sends a request to the address that `hosts` has for the name in the URL. */
export function request(options: HttpRequest, hosts: Record<string, string>): Promise<HttpAnswer> {
  const url = new URL(options.url);
  const client = url.protocol === 'https:' ? secure : plain;
  const headers = { Host: url.host, ...options.headers, ...(options.upgrade ? UPGRADE : {}) };
  return new Promise((resolve, reject) => {
    const sent = client.request({
      host: hosts[url.hostname] ?? url.hostname,
      servername: url.hostname,
      port: url.port === '' ? undefined : url.port,
      path: url.pathname + url.search,
      method: options.method,
      headers,
      timeout: TIMEOUT_MS,
      agent: false,
    });
    sent.on('error', reject);
    sent.on('timeout', () => sent.destroy(new Error('no answer in time')));
    sent.on('upgrade', (response, socket) => {
      socket.destroy();
      resolve(answerOf(response, ''));
    });
    sent.on('response', (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        body = (body + part).slice(0, LARGEST_BODY);
      });
      response.on('end', () => resolve(answerOf(response, body)));
      response.on('error', reject);
    });
    sent.end(options.body);
  });
}

const UPGRADE = {
  Connection: 'Upgrade',
  Upgrade: 'websocket',
  'Sec-WebSocket-Version': '13',
  'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
};

function answerOf(response: plain.IncomingMessage, body: string): HttpAnswer {
  const headers = Object.fromEntries(
    Object.entries(response.headers).map(([name, value]) => [name, String(value)]),
  );
  return { status: response.statusCode ?? 0, headers, body };
}
