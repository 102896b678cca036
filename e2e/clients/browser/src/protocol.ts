// What the driver and the page tell the tests. `e2e/src/clients/report.rs` reads these types.

/** How to join. */
export interface JoinOptions {
  url: string;
  token: string;
  /** `#rrggbb` of the canvas that is published; nothing is published without it. */
  colour?: string;
  /** Size and rate of the picture; 640×360 at 15 without it. */
  picture?: Picture;
  /** Hertz of the tone that is published; no sound without it. */
  toneHz?: number;
  videoCodec?: 'vp8' | 'h264' | 'vp9' | 'av1';
  simulcast?: boolean;
  /** Passphrase of end-to-end encryption; none without it. */
  key?: string;
  /** Media goes by TURN alone, which is reached by this transport; by any way without it. */
  relayBy?: 'udp' | 'tcp' | 'tls';
  /** Name of the only relay that is used, with `relayBy`. */
  relayHost?: string;
  /** Further options of livekit-client's `Room`. */
  roomOptions?: Record<string, unknown>;
  /** Answers of the server come on one peer connection (`/rtc/v1`) or on two (`/rtc`). */
  singlePeerConnection?: boolean;
}

export interface Picture {
  width: number;
  height: number;
  framesPerSecond: number;
}

/** What a client sees of its room. */
export interface Report {
  state: string;
  roomSid: string;
  identity: string;
  /** `server_info` of the join response. */
  server: { version: string; nodeId: string; debugInfo: string };
  participants: ParticipantReport[];
  /** Data messages, newest last. */
  messages: Message[];
  /** The latest room events in order, newest last. */
  events: string[];
  /** How often each room event has happened. */
  counts: Record<string, number>;
  /** Failures of the page's own code. */
  errors: string[];
}

export interface ParticipantReport {
  sid: string;
  identity: string;
  name: string;
  tracks: TrackReport[];
}

/** A remote track. Numbers are zero until something arrived. */
export interface TrackReport {
  sid: string;
  kind: string;
  source: string;
  muted: boolean;
  codec: string;
  packetsReceived: number;
  framesDecoded: number;
  width: number;
  height: number;
  /** Red, green and blue of the middle of the picture. */
  colour: [number, number, number];
  audioEnergy: number;
  /** Loudest frequency in hertz. */
  toneHz: number;
  /** Where the media comes from: `udp 10.0.0.1:20001`. */
  remote: string;
}

export interface Message {
  from: string;
  topic: string;
  text: string;
}
