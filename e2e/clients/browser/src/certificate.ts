// The certificate that a server shows.

import { connect } from 'node:tls';

const TIMEOUT_MS = 15_000;

/** Who is asked: the address that `hosts` has for the name. */
export interface CertificateRequest {
  name: string;
  port: number;
}

/** The SHA-256 fingerprint of the certificate, as hexadecimal digits. Nothing is verified. */
export function certificate({ name, port }: CertificateRequest, hosts: Record<string, string>): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { host: hosts[name] ?? name, port, servername: name, rejectUnauthorized: false };
    const socket = connect(options, () => {
      const { fingerprint256 } = socket.getPeerCertificate();
      socket.destroy();
      resolve(fingerprint256.replaceAll(':', '').toLowerCase());
    });
    socket.on('error', reject);
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('no answer in time')));
  });
}
