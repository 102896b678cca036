"""Two peer connections of aiortc: one publishes, one subscribes."""

import asyncio
import fractions

import numpy
from aiortc import (
    MediaStreamTrack,
    RTCPeerConnection,
    RTCSessionDescription,
    VideoStreamTrack,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, VideoFrame

from arrivals import Arrivals

SIZE = (240, 320, 3)


class Picture(VideoStreamTrack):
    async def recv(self) -> VideoFrame:
        timestamp, time_base = await self.next_timestamp()
        pixels = numpy.random.default_rng(timestamp).integers(0, 255, SIZE, dtype=numpy.uint8)
        pixels[60:180, 80:240] = timestamp // 3000 % 256
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = timestamp, time_base
        return frame


class Tone(MediaStreamTrack):
    """960 samples every 20 ms."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._samples = 0
        self._start = 0.0

    async def recv(self) -> AudioFrame:
        now = asyncio.get_running_loop().time()
        self._start = self._start or now
        await asyncio.sleep(self._start + self._samples / 48000 - now)
        angles = (numpy.arange(960) + self._samples) * 2 * numpy.pi * 440 / 48000
        samples = (numpy.sin(angles) * 8000).astype(numpy.int16).reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48000, self._samples
        frame.time_base = fractions.Fraction(1, 48000)
        self._samples += 960
        return frame


class Peer:
    def __init__(self) -> None:
        self._publisher = RTCPeerConnection()
        self._subscriber = RTCPeerConnection()
        self.arrivals = {"video": Arrivals(), "audio": Arrivals()}
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriber.on("track", self._receive)

    async def offer(self) -> str:
        self._publisher.addTrack(Picture())
        self._publisher.addTrack(Tone())
        await self._publisher.setLocalDescription(await self._publisher.createOffer())
        return self._publisher.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self._publisher.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def answer(self, sdp: str) -> str:
        await self._subscriber.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        await self._subscriber.setLocalDescription(await self._subscriber.createAnswer())
        return self._subscriber.localDescription.sdp

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._publisher.close()
        await self._subscriber.close()

    def _receive(self, track: MediaStreamTrack) -> None:
        self._tasks.append(asyncio.ensure_future(self._watch(track)))

    async def _watch(self, track: MediaStreamTrack) -> None:
        try:
            while True:
                await track.recv()
                self.arrivals[track.kind].note()
        except MediaStreamError:
            pass
