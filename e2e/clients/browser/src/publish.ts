// What the page sends: a canvas of one colour and a tone. Fake cameras look all alike; a colour and
// a frequency of its own prove whose media has arrived.

import type { Picture } from './protocol.ts';

const PICTURE: Picture = { width: 640, height: 360, framesPerSecond: 15 };

/** A track of a canvas of this colour; a moving mark in the corner makes every frame new. */
export function colourTrack(colour: string, picture = PICTURE): MediaStreamTrack {
  const { width, height, framesPerSecond } = picture;
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  if (context === null) {
    throw new Error('the canvas has no 2d context');
  }
  let frame = 0;
  const draw = () => {
    context.fillStyle = colour;
    context.fillRect(0, 0, width, height);
    context.fillStyle = frame % 2 === 0 ? '#000' : '#fff';
    context.fillRect(4 + (frame % 16) * 4, 4, 16, 16);
    frame += 1;
  };
  draw();
  const [track] = canvas.captureStream(framesPerSecond).getVideoTracks();
  if (track === undefined) {
    throw new Error('the canvas gave no track');
  }
  const timer = setInterval(() => {
    if (track.readyState === 'ended') {
      clearInterval(timer);
    }
    draw();
  }, 1000 / framesPerSecond);
  return track;
}

/** A track with a sine of this frequency. */
export function toneTrack(audio: AudioContext, hertz: number): MediaStreamTrack {
  const oscillator = audio.createOscillator();
  oscillator.frequency.value = hertz;
  const gain = audio.createGain();
  gain.gain.value = 0.5;
  const output = audio.createMediaStreamDestination();
  oscillator.connect(gain).connect(output);
  oscillator.start();
  const [track] = output.stream.getAudioTracks();
  if (track === undefined) {
    throw new Error('the oscillator gave no track');
  }
  return track;
}
