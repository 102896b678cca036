// Looks at one remote track: at its pixels, its sound and its statistics.

import type { RemoteTrack, RemoteTrackPublication } from 'livekit-client';
import type { TrackReport } from './protocol.ts';

/** Samples of a spectrum: 5.9 Hz a line at 48 kHz. */
const SPECTRUM_SIZE = 8192;

/** Below this level, in dBFS, there is no tone. */
const SILENCE_DB = -70;

/** Plays a remote track and measures it. */
export class Probe {
  private readonly element: HTMLMediaElement;
  private readonly pixel: CanvasRenderingContext2D | null;
  private readonly analyser: AnalyserNode | undefined;

  constructor(
    audio: AudioContext,
    private readonly track: RemoteTrack,
  ) {
    this.element = track.attach();
    document.body.append(this.element);
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 1;
    this.pixel = canvas.getContext('2d', { willReadFrequently: true });
    if (track.kind === 'audio') {
      this.analyser = audio.createAnalyser();
      this.analyser.fftSize = SPECTRUM_SIZE;
      audio.createMediaStreamSource(new MediaStream([track.mediaStreamTrack])).connect(this.analyser);
    }
  }

  close(): void {
    this.track.detach(this.element);
    this.element.remove();
    this.analyser?.disconnect();
  }

  async report(publication: RemoteTrackPublication): Promise<TrackReport> {
    const statistics = await receiverStatistics(this.track);
    const video = this.element instanceof HTMLVideoElement ? this.element : undefined;
    return {
      sid: publication.trackSid,
      kind: String(publication.kind),
      source: publication.source,
      muted: publication.isMuted,
      ...statistics,
      width: video?.videoWidth ?? 0,
      height: video?.videoHeight ?? 0,
      colour: video === undefined ? [0, 0, 0] : this.middleOf(video),
      toneHz: this.analyser === undefined ? 0 : loudest(this.analyser),
    };
  }

  private middleOf(video: HTMLVideoElement): [number, number, number] {
    if (this.pixel === null || video.videoWidth === 0) {
      return [0, 0, 0];
    }
    const { videoWidth, videoHeight } = video;
    this.pixel.drawImage(video, videoWidth / 2, videoHeight / 2, 1, 1, 0, 0, 1, 1);
    const [red = 0, green = 0, blue = 0] = this.pixel.getImageData(0, 0, 1, 1).data;
    return [red, green, blue];
  }
}

/** The report of a track that is announced and has not arrived. */
export function absentTrack(publication: RemoteTrackPublication): TrackReport {
  return {
    sid: publication.trackSid,
    kind: String(publication.kind),
    source: publication.source,
    muted: publication.isMuted,
    codec: '',
    packetsReceived: 0,
    framesDecoded: 0,
    width: 0,
    height: 0,
    colour: [0, 0, 0],
    audioEnergy: 0,
    toneHz: 0,
    remote: '',
  };
}

function loudest(analyser: AnalyserNode): number {
  const levels = new Float32Array(analyser.frequencyBinCount);
  analyser.getFloatFrequencyData(levels);
  let best = 0;
  for (let line = 1; line < levels.length; line += 1) {
    if ((levels[line] ?? -Infinity) > (levels[best] ?? -Infinity)) {
      best = line;
    }
  }
  const audible = (levels[best] ?? -Infinity) > SILENCE_DB;
  return audible ? (best * analyser.context.sampleRate) / analyser.fftSize : 0;
}

type Statistics = Pick<
  TrackReport,
  'codec' | 'packetsReceived' | 'framesDecoded' | 'audioEnergy' | 'remote'
>;

async function receiverStatistics(track: RemoteTrack): Promise<Statistics> {
  const result: Statistics = { codec: '', packetsReceived: 0, framesDecoded: 0, audioEnergy: 0, remote: '' };
  const report = await track.receiver?.getStats();
  report?.forEach((entry: Record<string, unknown>) => {
    if (entry['type'] !== 'inbound-rtp') {
      return;
    }
    result.packetsReceived = number(entry['packetsReceived']);
    result.framesDecoded = number(entry['framesDecoded']);
    result.audioEnergy = number(entry['totalAudioEnergy']);
    result.codec = text(follow(report, entry['codecId'])?.['mimeType']);
    const transport = follow(report, entry['transportId']);
    const pair = follow(report, transport?.['selectedCandidatePairId']);
    const remote = follow(report, pair?.['remoteCandidateId']);
    if (remote !== undefined) {
      result.remote = `${text(remote['protocol'])} ${text(remote['address'])}:${number(remote['port'])}`;
    }
  });
  return result;
}

function follow(report: RTCStatsReport, id: unknown): Record<string, unknown> | undefined {
  return report.get(String(id)) as Record<string, unknown> | undefined;
}

function number(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
