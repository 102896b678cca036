// One client in one tab, called by the driver through `window.client`.

import {
  ExternalE2EEKeyProvider,
  type RemoteTrack,
  type RemoteTrackPublication,
  Room,
  RoomEvent,
  Track,
} from 'livekit-client';
import { GapWatch } from './gaps.ts';
import { absentTrack, Probe } from './probe.ts';
import type { JoinOptions, Message, ParticipantReport, Report } from './protocol.ts';
import { colourTrack, toneTrack } from './publish.ts';
import { paths, relayBy } from './relay.ts';

/** Entries kept of messages, events and errors. */
const LONGEST_LIST = 500;

const LOGGED_EVENTS = [
  RoomEvent.Connected,
  RoomEvent.Reconnecting,
  RoomEvent.SignalReconnecting,
  RoomEvent.Reconnected,
  RoomEvent.Disconnected,
  RoomEvent.ParticipantConnected,
  RoomEvent.ParticipantDisconnected,
  RoomEvent.TrackSubscribed,
  RoomEvent.TrackUnsubscribed,
  RoomEvent.TrackMuted,
  RoomEvent.TrackUnmuted,
] as const;

class Client {
  private readonly audio = new AudioContext();
  private readonly probes = new Map<RemoteTrack, Probe>();
  private readonly messages: Message[] = [];
  private readonly events: string[] = [];
  private readonly counts: Record<string, number> = {};
  private readonly errors: string[] = [];
  /** Tests call livekit-client through it. */
  room = new Room();
  private readonly gapWatch = new GapWatch(() => this.room);

  constructor() {
    addEventListener('error', (event) => push(this.errors, event.message));
    addEventListener('unhandledrejection', (event) => push(this.errors, String(event.reason)));
  }

  async join(options: JoinOptions): Promise<void> {
    await this.audio.resume();
    if (options.relayBy !== undefined) {
      relayBy(options.relayBy, options.relayHost);
    }
    const { singlePeerConnection = true, roomOptions = {} } = options;
    const encryption = options.key === undefined ? {} : await encryptionWith(options.key);
    this.room = new Room({ singlePeerConnection, ...encryption, ...roomOptions });
    this.listen();
    if (options.key !== undefined) {
      await this.room.setE2EEEnabled(true);
    }
    await this.room.connect(options.url, options.token, { maxRetries: 0 });
    await this.publish(options);
  }

  async leave(): Promise<void> {
    await this.room.disconnect();
  }

  async send(topic: string, text: string): Promise<void> {
    const data = new TextEncoder().encode(text);
    await this.room.localParticipant.publishData(data, { reliable: true, topic });
  }

  async setMuted(source: Track.Source, muted: boolean): Promise<void> {
    const publication = this.room.localParticipant.getTrackPublication(source);
    if (publication === undefined) {
      throw new Error(`${source} is not published`);
    }
    await (muted ? publication.mute() : publication.unmute());
  }

  /** Longest time without a new picture of each publisher since it was asked last, in ms. */
  gaps(): Record<string, number> {
    return this.gapWatch.take();
  }

  async report(): Promise<Report> {
    this.watchTracks();
    const remotes = [...this.room.remoteParticipants.values()];
    const participants = remotes.map(async (participant): Promise<ParticipantReport> => {
      const publications = [...participant.trackPublications.values()] as RemoteTrackPublication[];
      const tracks = await Promise.all(publications.map((track) => this.reportTrack(track)));
      return { sid: participant.sid, identity: participant.identity, name: participant.name ?? '', tracks };
    });
    const { serverInfo } = this.room;
    return {
      state: this.room.state,
      roomSid: await sidOf(this.room),
      identity: this.room.localParticipant.identity,
      server: {
        version: serverInfo?.version ?? '',
        nodeId: serverInfo?.nodeId ?? '',
        debugInfo: serverInfo?.debugInfo ?? '',
      },
      participants: await Promise.all(participants),
      messages: this.messages,
      events: this.events,
      counts: this.counts,
      errors: this.errors,
    };
  }

  /** The selected path of each peer connection that is up. */
  paths(): Promise<string[]> {
    return paths();
  }

  private listen(): void {
    const { room } = this;
    for (const event of LOGGED_EVENTS) {
      room.on(event, () => {
        push(this.events, event);
        this.counts[event] = (this.counts[event] ?? 0) + 1;
      });
    }
    room.on(RoomEvent.DataReceived, (data, participant, _kind, topic) => {
      const text = new TextDecoder().decode(data);
      push(this.messages, { from: participant?.identity ?? '', topic: topic ?? '', text });
    });
    for (const event of [RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed]) {
      room.on(event, () => this.watchTracks());
    }
  }

  /**
   * Brings the probes in line with the room. Events alone do not suffice: livekit-client holds
   * them back while it reconnects, and some until it reconnects again.
   */
  private watchTracks(): void {
    const tracks = new Set(
      [...this.room.remoteParticipants.values()]
        .flatMap((participant) => [...participant.trackPublications.values()])
        .flatMap((publication) => (publication.track as RemoteTrack | undefined) ?? []),
    );
    for (const [track, probe] of this.probes) {
      if (!tracks.has(track)) {
        probe.close();
        this.probes.delete(track);
      }
    }
    for (const track of tracks) {
      if (!this.probes.has(track)) {
        this.probes.set(track, new Probe(this.audio, track));
      }
    }
  }

  private async publish(options: JoinOptions): Promise<void> {
    const { localParticipant } = this.room;
    if (options.colour !== undefined) {
      await localParticipant.publishTrack(colourTrack(options.colour, options.picture), {
        source: Track.Source.Camera,
        name: 'canvas',
        videoCodec: options.videoCodec ?? 'vp8',
        simulcast: options.simulcast ?? false,
      });
    }
    if (options.toneHz !== undefined) {
      await localParticipant.publishTrack(toneTrack(this.audio, options.toneHz), {
        source: Track.Source.Microphone,
        name: 'tone',
        dtx: false,
      });
    }
  }

  private async reportTrack(publication: RemoteTrackPublication) {
    const probe = publication.track === undefined ? undefined : this.probes.get(publication.track);
    return probe === undefined ? absentTrack(publication) : probe.report(publication);
  }
}

/** `Room.getSid` waits for a connection; a report must not. */
async function sidOf(room: Room): Promise<string> {
  return room.state === 'connected' ? room.getSid() : '';
}

/** livekit-client's own worker encrypts and decrypts; the driver serves it beside the page. */
async function encryptionWith(key: string) {
  const keyProvider = new ExternalE2EEKeyProvider();
  await keyProvider.setKey(key);
  return { encryption: { keyProvider, worker: new Worker('encryption.js', { type: 'module' }) } };
}

function push<T>(list: T[], entry: T): void {
  list.push(entry);
  if (list.length > LONGEST_LIST) {
    list.shift();
  }
}

declare global {
  interface Window {
    client: Client;
  }
}

window.client = new Client();
