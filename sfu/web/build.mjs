// Bundles the page into dist/, which the media node embeds: three files with fixed names that
// refer to each other by relative paths, so that the page works below any path prefix.
import { build } from 'esbuild';
import { cp, mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.url));
const dist = join(root, 'dist');

await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });
await build({
  entryPoints: { page: join(root, 'src/main.ts') },
  outdir: dist,
  bundle: true,
  minify: true,
  format: 'esm',
  target: ['chrome107', 'firefox104', 'safari16'],
  // Licence texts of bundled packages stay with the code.
  legalComments: 'eof',
  logLevel: 'warning',
});
for (const file of ['index.html', 'page.css', 'icon.svg']) {
  await cp(join(root, 'src', file), join(dist, file));
}
