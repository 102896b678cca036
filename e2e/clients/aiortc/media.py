"""What the client sends and how it looks at what it receives."""

import asyncio
import fractions
from typing import Any

import numpy as np
from aiortc import VideoStreamTrack
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from av.audio.resampler import AudioResampler

SAMPLE_RATE = 48_000
SAMPLES_PER_FRAME = SAMPLE_RATE // 50
AMPLITUDE = 0.5 * 32767
# Samples of a spectrum: 5.9 Hz a line.
SPECTRUM_SIZE = 8192
# Below this mean square (of samples between -1 and 1) there is no tone.
SILENCE = 1e-7


class Colour(VideoStreamTrack):
    """Pictures of `#rrggbb`; a moving mark in the corner makes every one new."""

    width = 320
    height = 180

    def __init__(self, colour: str) -> None:
        super().__init__()
        self._pixels = np.empty((self.height, self.width, 3), dtype=np.uint8)
        self._colour = tuple(bytes.fromhex(colour.removeprefix("#")))
        self._number = 0

    async def recv(self) -> VideoFrame:
        pts, time_base = await self.next_timestamp()
        self._pixels[:] = self._colour
        left = 4 + self._number % 16 * 4
        self._pixels[4:20, left : left + 16] = 255 * (self._number % 2)
        self._number += 1
        frame = VideoFrame.from_ndarray(self._pixels, format="rgb24")
        frame.pts, frame.time_base = pts, time_base
        return frame


class Tone(AudioStreamTrack):
    """A sine."""

    def __init__(self, hertz: float) -> None:
        super().__init__()
        self._hertz = hertz
        self._start = 0
        self._began: float | None = None

    async def recv(self) -> AudioFrame:
        now = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now
        await asyncio.sleep(max(0.0, self._began + self._start / SAMPLE_RATE - now))
        times = (self._start + np.arange(SAMPLES_PER_FRAME)) / SAMPLE_RATE
        samples = (AMPLITUDE * np.sin(2 * np.pi * self._hertz * times)).astype(np.int16)
        frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts, frame.time_base = self._start, fractions.Fraction(1, SAMPLE_RATE)
        self._start += SAMPLES_PER_FRAME
        return frame


class Probe:
    """Decodes a remote track and keeps what the last frames held."""

    def __init__(self, track: MediaStreamTrack) -> None:
        self._track = track
        self._frames = 0
        self._size = (0, 0)
        self._colour = (0, 0, 0)
        self._energy = 0.0
        self._samples = np.zeros(SPECTRUM_SIZE, dtype=np.float64)
        self._task = asyncio.create_task(self._watch() if track.kind == "video" else self._hear())

    def close(self) -> None:
        self._task.cancel()

    @staticmethod
    def nothing() -> dict[str, Any]:
        return {
            "framesDecoded": 0, "width": 0, "height": 0, "colour": (0, 0, 0),
            "audioEnergy": 0, "toneHz": 0,
        }

    def report(self) -> dict[str, Any]:
        return {
            "framesDecoded": self._frames,
            "width": self._size[0],
            "height": self._size[1],
            "colour": self._colour,
            "audioEnergy": self._energy,
            "toneHz": self._loudest(),
        }

    async def _watch(self) -> None:
        try:
            while True:
                frame = await self._track.recv()
                middle = frame.to_ndarray(format="rgb24")[frame.height // 2, frame.width // 2]
                self._colour = tuple(int(level) for level in middle)
                self._size = (frame.width, frame.height)
                self._frames += 1
        except MediaStreamError:
            pass  # the track has ended

    async def _hear(self) -> None:
        resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
        try:
            while True:
                for frame in resampler.resample(await self._track.recv()):
                    samples = frame.to_ndarray()[0] / 32768
                    self._energy += float(np.sum(samples**2)) / SAMPLE_RATE
                    self._samples = np.concatenate((self._samples, samples))[-SPECTRUM_SIZE:]
        except MediaStreamError:
            pass  # the track has ended

    def _loudest(self) -> float:
        if float(np.mean(self._samples**2)) < SILENCE:
            return 0.0
        levels = np.abs(np.fft.rfft(self._samples * np.hanning(SPECTRUM_SIZE)))
        return float(np.argmax(levels[1:]) + 1) * SAMPLE_RATE / SPECTRUM_SIZE
