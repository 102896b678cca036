// Bundles the driver (a Node program) and the page that it opens.
import { build } from 'esbuild';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.url));
const common = { bundle: true, format: 'esm', logLevel: 'warning' };

await build({
  ...common,
  entryPoints: [join(root, 'src/driver.ts')],
  outfile: join(root, 'dist/driver.mjs'),
  platform: 'node',
  target: 'node20',
  external: ['playwright-core'],
});
await build({
  ...common,
  entryPoints: [join(root, 'src/page.ts')],
  outfile: join(root, 'dist/page.js'),
  target: 'chrome120',
});
await build({
  ...common,
  entryPoints: [fileURLToPath(import.meta.resolve('livekit-client/e2ee-worker'))],
  outfile: join(root, 'dist/encryption.js'),
  target: 'chrome120',
});
