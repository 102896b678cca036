"""Looks at one remote track: at its pixels and at its sound."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from livekit import rtc

SAMPLE_RATE = 48_000
# Samples of a spectrum: 5.9 Hz a line.
SPECTRUM_SIZE = 8192
# Below this mean square (of samples between -1 and 1) there is no tone.
SILENCE = 1e-7
# Seconds without a picture after which the decoder is asked, and pictures that it must have
# decoded meanwhile to count as stuck.
PATIENCE = 4.0
STUCK = 20


class Probe:
    """Decodes a remote track and keeps what the last frames held.

    `shown` is called with each picture. On a starved machine libwebrtc's renderer sometimes hands
    over none any more, while its decoder goes on (livekit 1.2.0, with any server); then `stuck` is
    called.
    """

    def __init__(
        self, track: rtc.RemoteTrack, shown: Callable[[], None], stuck: Callable[[], None]
    ) -> None:
        self._track = track
        self._shown = shown
        self._stuck = stuck
        self._frames = 0
        self._size = (0, 0)
        self._colour = (0, 0, 0)
        self._energy = 0.0
        self._samples = np.zeros(SPECTRUM_SIZE, dtype=np.float64)
        video = track.kind == rtc.TrackKind.KIND_VIDEO
        self._task = asyncio.create_task(self._watch() if video else self._hear())
        self._guard = asyncio.create_task(self._look_after()) if video else None

    def close(self) -> None:
        self._task.cancel()
        if self._guard:
            self._guard.cancel()

    async def report(self) -> dict[str, Any]:
        if self._task.done():
            # What ended it shall not look like a track without pictures.
            self._task.result()
        return {
            "framesDecoded": self._frames,
            "width": self._size[0],
            "height": self._size[1],
            "colour": self._colour,
            "audioEnergy": self._energy,
            "toneHz": self._loudest(),
            **await self._statistics(),
        }

    async def _watch(self) -> None:
        stream = rtc.VideoStream(self._track, format=rtc.VideoBufferType.RGBA, capacity=2)
        async with contextlib.aclosing(stream):
            async for event in stream:
                frame = event.frame
                middle = 4 * (frame.height // 2 * frame.width + frame.width // 2)
                self._colour = tuple(frame.data[middle : middle + 3])
                self._size = (frame.width, frame.height)
                self._frames += 1
                self._shown()

    async def _look_after(self) -> None:
        while True:
            shown, decoded = self._frames, await self._decoded()
            await asyncio.sleep(PATIENCE)
            if self._frames == shown and await self._decoded() >= decoded + STUCK:
                return self._stuck()

    async def _decoded(self) -> int:
        entries = await self._track.get_stats()
        inbound = [entry.inbound_rtp.inbound for entry in entries if entry.HasField("inbound_rtp")]
        return sum(entry.frames_decoded for entry in inbound)

    async def _hear(self) -> None:
        stream = rtc.AudioStream(self._track, sample_rate=SAMPLE_RATE, num_channels=1, capacity=50)
        async with contextlib.aclosing(stream):
            async for event in stream:
                samples = np.frombuffer(event.frame.data, dtype=np.int16) / 32768
                self._energy += float(np.sum(samples**2)) / SAMPLE_RATE
                self._samples = np.concatenate((self._samples, samples))[-SPECTRUM_SIZE:]

    def _loudest(self) -> float:
        if float(np.mean(self._samples**2)) < SILENCE:
            return 0.0
        levels = np.abs(np.fft.rfft(self._samples * np.hanning(SPECTRUM_SIZE)))
        return float(np.argmax(levels[1:]) + 1) * SAMPLE_RATE / SPECTRUM_SIZE

    async def _statistics(self) -> dict[str, Any]:
        codecs: dict[str, str] = {}
        remotes: dict[str, str] = {}
        result = {"codec": "", "packetsReceived": 0, "remote": "", "decoder": ""}
        stats = await self._track.get_stats()
        for entry in stats:
            if entry.HasField("codec"):
                codecs[entry.codec.rtc.id] = entry.codec.codec.mime_type
            elif entry.HasField("remote_candidate"):
                candidate = entry.remote_candidate.candidate
                address = f"{candidate.protocol} {candidate.address}:{candidate.port}"
                remotes[entry.remote_candidate.rtc.id] = address
        for entry in stats:
            if entry.HasField("inbound_rtp"):
                result["packetsReceived"] = entry.inbound_rtp.received.packets_received
                result["codec"] = codecs.get(entry.inbound_rtp.stream.codec_id, "")
                result["decoder"] = decoder(entry.inbound_rtp.inbound)
            elif entry.HasField("candidate_pair") and entry.candidate_pair.candidate_pair.nominated:
                pair = entry.candidate_pair.candidate_pair
                result["remote"] = remotes.get(pair.remote_candidate_id, "")
        return result


def decoder(inbound: Any) -> str:
    """What became of the pictures, for whom a test fails."""
    return (
        f"{inbound.frames_received} pictures received, {inbound.frames_decoded} decoded,"
        f" {inbound.key_frames_decoded} of them key frames; {inbound.frames_dropped} dropped;"
        f" {inbound.pli_count} PLI, {inbound.nack_count} NACK sent"
    )
