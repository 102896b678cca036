// The buttons below the grid.

import { type LocalParticipant, type Room, Track } from 'livekit-client';
import { type Device, explainDeviceFailure } from './devices.ts';
import { byId } from './dom.ts';

/** What a button switches. */
const SOURCES: Record<Device, Track.Source> = {
  microphone: Track.Source.Microphone,
  camera: Track.Source.Camera,
  screen: Track.Source.ScreenShare,
};

/** Switches for microphone, camera and screen. */
export class Controls {
  private readonly buttons: Record<Device, HTMLButtonElement> = {
    microphone: byId('microphone', HTMLButtonElement),
    camera: byId('camera', HTMLButtonElement),
    screen: byId('screen', HTMLButtonElement),
  };

  constructor(
    private readonly room: Room,
    private readonly onFailure: (text: string) => void,
    signal: AbortSignal,
  ) {
    for (const device of Object.keys(SOURCES) as Device[]) {
      this.buttons[device].addEventListener('click', () => {
        void this.set(device, !isOn(room.localParticipant, device));
      }, { signal });
    }
  }

  /** Switches a device and tells the person when that fails. */
  async set(device: Device, on: boolean): Promise<void> {
    const button = this.buttons[device];
    button.disabled = true;
    try {
      await setDevice(this.room.localParticipant, device, on);
    } catch (error) {
      const text = explainDeviceFailure(device, error);
      if (text !== undefined) {
        this.onFailure(text);
      }
    } finally {
      button.disabled = false;
      this.render();
    }
  }

  /** Brings the buttons in line with the room. */
  render(): void {
    const { localParticipant } = this.room;
    const mayPublish = localParticipant.permissions?.canPublish ?? true;
    for (const device of Object.keys(SOURCES) as Device[]) {
      const button = this.buttons[device];
      button.hidden = !mayPublish || (device === 'screen' && !canShareScreen());
      button.setAttribute('aria-pressed', String(isOn(localParticipant, device)));
    }
  }
}

function isOn(participant: LocalParticipant, device: Device): boolean {
  const publication = participant.getTrackPublication(SOURCES[device]);
  return publication !== undefined && !publication.isMuted;
}

async function setDevice(participant: LocalParticipant, device: Device, on: boolean): Promise<void> {
  switch (device) {
    case 'microphone':
      await participant.setMicrophoneEnabled(on);
      return;
    case 'camera':
      await participant.setCameraEnabled(on);
      return;
    case 'screen':
      await participant.setScreenShareEnabled(on, { audio: true });
      return;
  }
}

/** Telephones have no screen sharing. */
function canShareScreen(): boolean {
  return typeof navigator.mediaDevices?.getDisplayMedia === 'function';
}
