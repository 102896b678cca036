// Short messages above the controls.

import { make } from './dom.ts';

/** More than this many notices at once help nobody; the oldest goes. */
const LARGEST_NUMBER = 4;

/** How long a notice without a button stays. */
const LIFETIME_MS = 12_000;

/** A button inside a notice. */
export interface NoticeAction {
  label: string;
  run: () => void;
}

/** The list of notices. */
export class Notices {
  constructor(private readonly list: HTMLElement) {}

  /** Shows a message; one with the same text replaces the earlier one. */
  show(text: string, action?: NoticeAction): void {
    for (const item of [...this.list.children]) {
      if (item.firstElementChild?.textContent === text) {
        item.remove();
      }
    }
    const item = make('li');
    item.append(make('span', '', text));
    const button = make('button', '', action?.label ?? 'Close');
    button.type = 'button';
    button.addEventListener('click', () => {
      item.remove();
      action?.run();
    });
    item.append(button);
    this.list.append(item);
    while (this.list.children.length > LARGEST_NUMBER) {
      this.list.firstElementChild?.remove();
    }
    if (action === undefined) {
      setTimeout(() => item.remove(), LIFETIME_MS);
    }
  }

  /** Removes every message. */
  clear(): void {
    this.list.replaceChildren();
  }
}
