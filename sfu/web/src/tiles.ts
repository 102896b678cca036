// The grid of participants: compares what should be shown with what is there.

import {
  type Participant,
  type RemoteTrackPublication,
  type Room,
  Track,
  type TrackPublication,
} from 'livekit-client';
import { make } from './dom.ts';

/** A tile that should be there. */
interface Wanted {
  key: string;
  participant: Participant;
  source: Track.Source.Camera | Track.Source.ScreenShare;
}

/** The grid. `render` may be called at any time and as often as one likes. */
export class TileGrid {
  private readonly tiles = new Map<string, Tile>();
  private readonly sound = new SoundOutput();

  constructor(
    private readonly list: HTMLElement,
    private readonly room: Room,
  ) {}

  /** Brings the page in line with the room. */
  render(): void {
    const wanted = wantedTiles(this.room);
    const keys = new Set(wanted.map((tile) => tile.key));
    for (const [key, tile] of this.tiles) {
      if (!keys.has(key)) {
        tile.remove();
        this.tiles.delete(key);
      }
    }
    for (const { key, participant, source } of wanted) {
      let tile = this.tiles.get(key);
      if (tile === undefined) {
        tile = new Tile(this.list);
        this.tiles.set(key, tile);
      }
      tile.render(participant, source);
    }
    this.sound.render(this.room);
  }

  /** Releases every element and track. */
  clear(): void {
    for (const tile of this.tiles.values()) {
      tile.remove();
    }
    this.tiles.clear();
    this.sound.clear();
  }
}

/** One tile a participant, and one more for a shared screen; oneself first. */
function wantedTiles(room: Room): Wanted[] {
  const participants = [room.localParticipant, ...room.remoteParticipants.values()];
  return participants.flatMap((participant) => {
    const tiles: Wanted[] = [
      { key: `${participant.identity}/camera`, participant, source: Track.Source.Camera },
    ];
    if (shownVideo(participant, Track.Source.ScreenShare) !== undefined) {
      const key = `${participant.identity}/screen`;
      tiles.push({ key, participant, source: Track.Source.ScreenShare });
    }
    return tiles;
  });
}

function shownVideo(participant: Participant, source: Track.Source): Track | undefined {
  const publication = participant.getTrackPublication(source);
  return publication === undefined || publication.isMuted ? undefined : publication.track;
}

/** One participant's picture. */
class Tile {
  private readonly item = make('li', 'tile');
  private readonly initials = make('span', 'initials');
  private readonly label = make('span', 'label');
  private video: HTMLVideoElement | undefined;
  private track: Track | undefined;

  constructor(list: HTMLElement) {
    this.initials.setAttribute('aria-hidden', 'true');
    this.item.append(this.initials, this.label);
    list.append(this.item);
  }

  render(participant: Participant, source: Wanted['source']): void {
    const name = participant.name || participant.identity;
    const screen = source === Track.Source.ScreenShare;
    this.item.classList.toggle('screen', screen);
    this.item.classList.toggle('mirrored', participant.isLocal && !screen);
    this.item.classList.toggle('speaking', participant.isSpeaking && !screen);
    this.item.dataset['identity'] = participant.identity;
    this.initials.textContent = initialsOf(name);
    this.label.textContent = labelOf(participant, name, screen);
    this.show(shownVideo(participant, source), name);
  }

  remove(): void {
    this.show(undefined, '');
    this.item.remove();
  }

  private show(track: Track | undefined, name: string): void {
    if (track === this.track) {
      return;
    }
    if (this.video !== undefined) {
      this.track?.detach(this.video);
      this.video.remove();
      this.video = undefined;
    }
    this.track = track;
    if (track !== undefined) {
      const video = make('video');
      video.playsInline = true;
      video.muted = true;
      video.setAttribute('aria-label', `Video of ${name}`);
      track.attach(video);
      this.initials.after(video);
      this.video = video;
    }
  }
}

function labelOf(participant: Participant, name: string, screen: boolean): string {
  const who = participant.isLocal ? `${name} (you)` : name;
  if (screen) {
    return `Screen of ${who}`;
  }
  const microphone = participant.getTrackPublication(Track.Source.Microphone);
  return microphone === undefined || microphone.isMuted ? `${who} · muted` : who;
}

/** The first letters of the first and the last word, by characters and not by code units. */
function initialsOf(name: string): string {
  const words = name.trim().split(/\s+/);
  const ends = words.length > 1 ? [words[0], words[words.length - 1]] : [words[0]];
  return ends.map((word) => [...(word ?? '')][0] ?? '').join('').toUpperCase();
}

/** The sound of the others, played by elements that nobody sees. */
class SoundOutput {
  private readonly elements = new Map<Track, HTMLMediaElement>();

  render(room: Room): void {
    const wanted = new Set(
      [...room.remoteParticipants.values()]
        .flatMap((participant) => [...participant.audioTrackPublications.values()])
        .flatMap((publication: TrackPublication | RemoteTrackPublication) => publication.track ?? []),
    );
    for (const [track, element] of this.elements) {
      if (!wanted.has(track)) {
        track.detach(element);
        element.remove();
        this.elements.delete(track);
      }
    }
    for (const track of wanted) {
      if (!this.elements.has(track)) {
        const element = track.attach();
        document.body.append(element);
        this.elements.set(track, element);
      }
    }
  }

  clear(): void {
    for (const [track, element] of this.elements) {
      track.detach(element);
      element.remove();
    }
    this.elements.clear();
  }
}
