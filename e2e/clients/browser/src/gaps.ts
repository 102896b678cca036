// Measures for how long no new picture of a publisher was decoded.

import type { RemoteTrackPublication, Room } from 'livekit-client';

/** Time between two looks at the decoders, in milliseconds: how exact a gap is. */
const INTERVAL = 50;

interface Clock {
  last: number;
  longest: number;
}

/** Looks at the decoders of all remote pictures, whatever tracks and receivers carry them. */
export class GapWatch {
  private readonly clocks = new Map<string, Clock>();
  private readonly frames = new WeakMap<RTCRtpReceiver, number>();
  private isLooking = false;

  constructor(private readonly room: () => Room) {
    setInterval(() => void this.look(), INTERVAL);
  }

  /** The longest gap of each publisher since this was asked last, in milliseconds. */
  take(): Record<string, number> {
    const now = performance.now();
    const gaps: Record<string, number> = {};
    for (const [identity, clock] of this.clocks) {
      gaps[identity] = Math.max(clock.longest, now - clock.last);
      clock.longest = 0;
    }
    return gaps;
  }

  private async look(): Promise<void> {
    if (this.isLooking) {
      return;
    }
    this.isLooking = true;
    try {
      const participants = [...this.room().remoteParticipants.values()];
      await Promise.all(
        participants.flatMap(({ identity, trackPublications }) =>
          [...trackPublications.values()].map((track) => this.lookAt(identity, track as RemoteTrackPublication)),
        ),
      );
    } finally {
      this.isLooking = false;
    }
  }

  private async lookAt(identity: string, publication: RemoteTrackPublication): Promise<void> {
    const receiver = publication.kind === 'video' ? publication.track?.receiver : undefined;
    const report = await receiver?.getStats();
    report?.forEach((entry: Record<string, unknown>) => {
      const frames = Number(entry['framesDecoded'] ?? 0);
      if (receiver !== undefined && entry['type'] === 'inbound-rtp' && frames > (this.frames.get(receiver) ?? 0)) {
        this.frames.set(receiver, frames);
        this.tick(identity);
      }
    });
  }

  private tick(identity: string): void {
    const now = performance.now();
    const clock = this.clocks.get(identity) ?? { last: now, longest: 0 };
    clock.longest = Math.max(clock.longest, now - clock.last);
    clock.last = now;
    this.clocks.set(identity, clock);
  }
}
