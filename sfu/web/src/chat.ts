// Text messages to everybody in the room, as text streams on the topic that LiveKit's own
// components use.

import type { Room } from 'livekit-client';
import { byId, make } from './dom.ts';

const TOPIC = 'lk.chat';

/** Messages that stay on the page; older ones go. */
const LARGEST_LOG = 500;

/** The longest message that is shown, in characters; the sender is not trusted. */
const LONGEST_MESSAGE = 2_000;

/** The chat panel. */
export class Chat {
  private readonly panel = byId('chat', HTMLElement);
  private readonly log = byId('chat-log', HTMLOListElement);
  private readonly form = byId('chat-form', HTMLFormElement);
  private readonly input = byId('chat-text', HTMLInputElement);
  private readonly toggle = byId('toggle-chat', HTMLButtonElement);

  constructor(
    private readonly room: Room,
    private readonly onFailure: (text: string) => void,
    signal: AbortSignal,
  ) {
    this.log.replaceChildren();
    this.open(false);
    room.registerTextStreamHandler(TOPIC, async (reader, { identity }) => {
      const sender = room.remoteParticipants.get(identity);
      this.add(sender?.name || identity, await reader.readAll());
    });
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.send();
    }, { signal });
    this.toggle.addEventListener('click', () => this.open(this.panel.hidden === true), { signal });
  }

  private async send(): Promise<void> {
    const text = this.input.value.trim();
    if (text === '') {
      return;
    }
    this.input.value = '';
    try {
      await this.room.localParticipant.sendText(text, { topic: TOPIC });
      this.add(`${this.room.localParticipant.name ?? ''} (you)`, text);
    } catch {
      this.input.value = text;
      this.onFailure('The message was not sent.');
    }
  }

  private add(sender: string, text: string): void {
    const item = make('li');
    item.append(make('span', 'sender', sender), make('span', '', text.slice(0, LONGEST_MESSAGE)));
    this.log.append(item);
    while (this.log.children.length > LARGEST_LOG) {
      this.log.firstElementChild?.remove();
    }
    item.scrollIntoView({ block: 'nearest' });
    if (this.panel.hidden) {
      this.toggle.textContent = 'Chat •';
    }
  }

  private open(open: boolean): void {
    this.panel.hidden = !open;
    this.toggle.setAttribute('aria-pressed', String(open));
    this.toggle.textContent = 'Chat';
    if (open) {
      this.input.focus();
    }
  }
}
