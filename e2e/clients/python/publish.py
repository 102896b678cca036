"""What the client sends: pictures of one colour and a tone, like the browser client."""

import asyncio

import numpy as np
from livekit import rtc

WIDTH = 640
HEIGHT = 360
FRAMES_PER_SECOND = 15

SAMPLE_RATE = 48_000
SAMPLES_PER_FRAME = SAMPLE_RATE // 100
AMPLITUDE = 0.5 * 32767


async def publish_colour(room: rtc.Room, colour: str) -> asyncio.Task[None]:
    """Publishes a picture of `#rrggbb`; a moving mark in the corner makes every frame new."""
    source = rtc.VideoSource(WIDTH, HEIGHT)
    track = rtc.LocalVideoTrack.create_video_track("canvas", source)
    options = rtc.TrackPublishOptions(
        source=rtc.TrackSource.SOURCE_CAMERA, video_codec=rtc.VideoCodec.VP8, simulcast=False
    )
    await room.local_participant.publish_track(track, options)
    return asyncio.create_task(_paint(source, colour))


async def publish_tone(room: rtc.Room, hertz: float) -> asyncio.Task[None]:
    """Publishes a sine."""
    source = rtc.AudioSource(SAMPLE_RATE, 1)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
    await room.local_participant.publish_track(track, options)
    return asyncio.create_task(_sing(source, hertz))


async def _paint(source: rtc.VideoSource, colour: str) -> None:
    picture = np.empty((HEIGHT, WIDTH, 4), dtype=np.uint8)
    number = 0
    while True:
        picture[:] = (*bytes.fromhex(colour.removeprefix("#")), 255)
        left = 4 + number % 16 * 4
        picture[4:20, left : left + 16, :3] = 255 * (number % 2)
        frame = rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, picture.tobytes())
        source.capture_frame(frame)
        number += 1
        await asyncio.sleep(1 / FRAMES_PER_SECOND)


async def _sing(source: rtc.AudioSource, hertz: float) -> None:
    start = 0
    while True:
        times = (start + np.arange(SAMPLES_PER_FRAME)) / SAMPLE_RATE
        samples = (AMPLITUDE * np.sin(2 * np.pi * hertz * times)).astype(np.int16)
        frame = rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE, 1, SAMPLES_PER_FRAME)
        # Waits while the source's queue is full, and so keeps the pace.
        await source.capture_frame(frame)
        start += SAMPLES_PER_FRAME
