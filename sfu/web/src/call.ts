// A call from joining to leaving: ties the room to the parts of the page.

import { ConnectionState, DisconnectReason, Room, RoomEvent } from 'livekit-client';
import { Chat } from './chat.ts';
import { Controls } from './controls.ts';
import { byId } from './dom.ts';
import type { Grant } from './grant.ts';
import { linkTo } from './link.ts';
import { Notices } from './notices.ts';
import { TileGrid } from './tiles.ts';

/** What the person wants to send from the start. */
export interface Choices {
  microphone: boolean;
  camera: boolean;
}

/** Events after which the page is brought in line with the room. */
const REDRAW = [
  RoomEvent.ConnectionStateChanged,
  RoomEvent.ParticipantConnected,
  RoomEvent.ParticipantDisconnected,
  RoomEvent.ParticipantNameChanged,
  RoomEvent.ParticipantPermissionsChanged,
  RoomEvent.ActiveSpeakersChanged,
  // Comes every few seconds, and so makes up for events that livekit-client held back while it
  // reconnected.
  RoomEvent.ConnectionQualityChanged,
  RoomEvent.TrackPublished,
  RoomEvent.TrackUnpublished,
  RoomEvent.TrackSubscribed,
  RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackMuted,
  RoomEvent.TrackUnmuted,
  RoomEvent.LocalTrackPublished,
  RoomEvent.LocalTrackUnpublished,
] as const;

/** Joins and stays until the call ends; answers with the reason to show, if there is one. */
export async function runCall(grant: Grant, choices: Choices): Promise<string | undefined> {
  const room = new Room({ adaptiveStream: true, dynacast: true });
  await room.connect(grant.url, grant.token);
  const over = new AbortController();
  try {
    return await new CallView(room, grant, over.signal).run(choices);
  } finally {
    over.abort();
    await room.disconnect();
  }
}

/** The visible call. */
class CallView {
  private readonly element = byId('call', HTMLElement);
  private readonly state = byId('room-state', HTMLElement);
  private readonly notices = new Notices(byId('notices', HTMLElement));
  private readonly grid: TileGrid;
  private readonly controls: Controls;

  constructor(
    private readonly room: Room,
    private readonly grant: Grant,
    private readonly signal: AbortSignal,
  ) {
    const tell = (text: string) => this.notices.show(text);
    this.notices.clear();
    this.grid = new TileGrid(byId('tiles', HTMLElement), room);
    this.controls = new Controls(room, tell, signal);
    new Chat(room, tell, signal);
  }

  async run(choices: Choices): Promise<string | undefined> {
    const ended = new Promise<string | undefined>((resolve) => {
      this.room.once(RoomEvent.Disconnected, (reason) => resolve(explainEnd(reason)));
    });
    this.connectParts();
    byId('room-name', HTMLElement).textContent = this.grant.room;
    this.element.hidden = false;
    this.render();
    void this.startDevices(choices);
    try {
      return await ended;
    } finally {
      this.grid.clear();
      this.element.hidden = true;
    }
  }

  private connectParts(): void {
    const { room, signal } = this;
    for (const event of REDRAW) {
      room.on(event, () => this.render());
    }
    room.on(RoomEvent.AudioPlaybackStatusChanged, () => this.askForSound());
    byId('leave', HTMLElement).addEventListener('click', () => void room.disconnect(), { signal });
    byId('copy-link', HTMLElement).addEventListener('click', () => void this.copyLink(), { signal });
  }

  private async startDevices(choices: Choices): Promise<void> {
    if (choices.microphone) {
      await this.controls.set('microphone', true);
    }
    if (choices.camera) {
      await this.controls.set('camera', true);
    }
  }

  private render(): void {
    this.grid.render();
    this.controls.render();
    const people = this.room.remoteParticipants.size + 1;
    this.state.textContent =
      this.room.state === ConnectionState.Connected
        ? `${people} ${people === 1 ? 'participant' : 'participants'}`
        : 'Connecting again…';
  }

  /** Browsers play no sound before the person has touched the page. */
  private askForSound(): void {
    if (!this.room.canPlaybackAudio) {
      const run = () => void this.room.startAudio();
      this.notices.show('The browser holds back the sound.', { label: 'Turn on sound', run });
    }
  }

  private async copyLink(): Promise<void> {
    const link = linkTo(this.grant.room, location);
    try {
      await navigator.clipboard.writeText(link);
      this.notices.show('The link to this room was copied.');
    } catch {
      this.notices.show(`The link to this room: ${link}`);
    }
  }
}

/** Why the call ended, unless the person ended it. */
function explainEnd(reason: DisconnectReason | undefined): string | undefined {
  switch (reason) {
    case DisconnectReason.CLIENT_INITIATED:
      return undefined;
    case DisconnectReason.DUPLICATE_IDENTITY:
      return 'You entered this room from another place.';
    case DisconnectReason.PARTICIPANT_REMOVED:
      return 'You were removed from the room.';
    case DisconnectReason.ROOM_DELETED:
    case DisconnectReason.ROOM_CLOSED:
      return 'The room was closed.';
    default:
      return 'The connection was lost. Join again when you are online.';
  }
}
