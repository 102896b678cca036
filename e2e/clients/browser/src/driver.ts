// Takes commands as JSON lines on the standard input and answers on the standard output:
// {"id": 1, "command": "open", …} is answered by {"id": 1, "result": …} or {"id": 1, "error": "…"}.
// Commands run side by side; the end of the input closes the browser.

import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Commands } from './commands.ts';

const read = (name: string) => readFile(fileURLToPath(new URL(name, import.meta.url)), 'utf8');
const script = await read('page.js');
const commands = new Commands(script.replaceAll('</script', '<\\/script'), await read('encryption.js'));
const methods = commands as unknown as Record<string, (options: unknown) => Promise<unknown>>;

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...options } = JSON.parse(line) as { id: number; command: string };
  void run(id, command, options);
}
await commands.quit();
process.exit(0);

async function run(id: number, command: string, options: unknown): Promise<void> {
  try {
    const method = methods[command];
    if (method === undefined) {
      throw new Error(`unknown command ${command}`);
    }
    answer({ id, result: (await method.call(commands, options)) ?? null });
  } catch (error) {
    answer({ id, error: error instanceof Error ? error.message : String(error) });
  }
}

function answer(message: unknown): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}
