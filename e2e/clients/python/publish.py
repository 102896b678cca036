"""What the client sends: pictures of one colour and a tone, like the browser client."""

import asyncio
from dataclasses import dataclass

import numpy as np
from livekit import rtc

SAMPLE_RATE = 48_000
SAMPLES_PER_FRAME = SAMPLE_RATE // 100
AMPLITUDE = 0.5 * 32767


@dataclass(frozen=True)
class Picture:
    """Size and rate of a picture; the names are those of the browser client."""

    width: int = 640
    height: int = 360
    framesPerSecond: int = 15


async def publish_colour(
    room: rtc.Room,
    colour: str,
    name: str = "canvas",
    source: rtc.TrackSource.ValueType = rtc.TrackSource.SOURCE_CAMERA,
    picture: Picture = Picture(),
) -> asyncio.Task[None]:
    """Publishes a picture of `#rrggbb`; a moving mark in the corner makes every frame new."""
    video = rtc.VideoSource(picture.width, picture.height)
    track = rtc.LocalVideoTrack.create_video_track(name, video)
    options = rtc.TrackPublishOptions(source=source, video_codec=rtc.VideoCodec.VP8, simulcast=False)
    await room.local_participant.publish_track(track, options)
    return asyncio.create_task(_paint(video, colour, picture))


async def publish_tone(
    room: rtc.Room,
    hertz: float,
    name: str = "tone",
    source: rtc.TrackSource.ValueType = rtc.TrackSource.SOURCE_MICROPHONE,
) -> asyncio.Task[None]:
    """Publishes a sine."""
    audio = rtc.AudioSource(SAMPLE_RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track(name, audio)
    options = rtc.TrackPublishOptions(source=source, dtx=False)
    await room.local_participant.publish_track(track, options)
    return asyncio.create_task(_sing(audio, hertz))


async def _paint(source: rtc.VideoSource, colour: str, picture: Picture) -> None:
    pixels = np.empty((picture.height, picture.width, 4), dtype=np.uint8)
    number = 0
    while True:
        pixels[:] = (*bytes.fromhex(colour.removeprefix("#")), 255)
        left = 4 + number % 16 * 4
        pixels[4:20, left : left + 16, :3] = 255 * (number % 2)
        frame = rtc.VideoFrame(
            picture.width, picture.height, rtc.VideoBufferType.RGBA, pixels.tobytes()
        )
        source.capture_frame(frame)
        number += 1
        await asyncio.sleep(1 / picture.framesPerSecond)


async def _sing(source: rtc.AudioSource, hertz: float) -> None:
    start = 0
    while True:
        times = (start + np.arange(SAMPLES_PER_FRAME)) / SAMPLE_RATE
        samples = (AMPLITUDE * np.sin(2 * np.pi * hertz * times)).astype(np.int16)
        frame = rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE, 1, SAMPLES_PER_FRAME)
        # Waits while the source's queue is full, and so keeps the pace.
        await source.capture_frame(frame)
        start += SAMPLES_PER_FRAME
