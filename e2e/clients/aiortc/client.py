"""A client of a room with aiortc, a WebRTC stack in Python, driven by the end-to-end tests.

It takes the commands of `clients/python/client.py` as far as they make sense: join, report, leave.
"""

import asyncio
import logging
from collections import Counter, deque
from typing import Any

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack
from livekit.protocol import models, rtc

from commands import serve
from media import Colour, Probe, Tone

LONGEST_LIST = 500
SOURCES = {
    models.TrackSource.CAMERA: "camera",
    models.TrackSource.MICROPHONE: "microphone",
}


class Client:
    def __init__(self) -> None:
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        # Without a list aiortc asks a STUN server of others.
        without_stun = RTCConfiguration(iceServers=[])
        self._publisher = RTCPeerConnection(without_stun)
        self._subscriber = RTCPeerConnection(without_stun)
        self._joined: asyncio.Future[rtc.JoinResponse] = asyncio.get_running_loop().create_future()
        self._published: dict[str, asyncio.Event] = {}
        self._answers: asyncio.Queue[rtc.SessionDescription] = asyncio.Queue(maxsize=1)
        self._offers: asyncio.Queue[rtc.SessionDescription] = asyncio.Queue(maxsize=LONGEST_LIST)
        self._connected = asyncio.Event()
        self._participants: dict[str, models.ParticipantInfo] = {}
        self._probes: dict[str, Probe] = {}
        self._events: deque[str] = deque(maxlen=LONGEST_LIST)
        self._errors: deque[str] = deque(maxlen=LONGEST_LIST)
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriber.on("track", self._subscribed)
        self._subscriber.on("connectionstatechange", self._connection_changed)

    async def join(self, url: str, token: str, **options: Any) -> None:
        self._http = aiohttp.ClientSession()
        query = {"access_token": token, "protocol": "16", "sdk": "python", "auto_subscribe": "1"}
        self._socket = await self._http.ws_connect(f"{url}/rtc", params=query)
        self._tasks.append(asyncio.create_task(self._receive(self._socket)))
        self._tasks.append(asyncio.create_task(self._answer_offers()))
        joined = await self._joined
        self._tasks.append(asyncio.create_task(self._ping(joined.ping_interval)))
        self._events.append("connected")
        tracks: list[tuple[MediaStreamTrack, rtc.AddTrackRequest]] = []
        if "colour" in options:
            video = Colour(options["colour"])
            request = rtc.AddTrackRequest(
                cid=video.id, name="canvas", type=models.TrackType.VIDEO,
                source=models.TrackSource.CAMERA, width=video.width, height=video.height,
            )
            tracks.append((video, request))
        if "toneHz" in options:
            audio = Tone(options["toneHz"])
            request = rtc.AddTrackRequest(
                cid=audio.id, name="tone", type=models.TrackType.AUDIO,
                source=models.TrackSource.MICROPHONE, disable_dtx=True,
            )
            tracks.append((audio, request))
        await self._publish(tracks)

    async def leave(self) -> None:
        if self._socket is not None:
            await self._send(rtc.SignalRequest(leave=rtc.LeaveRequest()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._publisher.close(), self._subscriber.close())
        if self._http is not None:
            await self._http.close()

    async def report(self) -> dict[str, Any]:
        joined = self._joined.result() if self._joined.done() else rtc.JoinResponse()
        is_open = self._socket is not None and not self._socket.closed
        return {
            "state": "connected" if is_open else "disconnected",
            "roomSid": joined.room.sid,
            "identity": joined.participant.identity,
            "server": {"version": "", "nodeId": "", "debugInfo": ""},
            "participants": [self._participant(info) for info in self._participants.values()],
            "messages": [],
            "events": list(self._events),
            "counts": dict(Counter(self._events)),
            "errors": list(self._errors),
        }

    def _participant(self, info: models.ParticipantInfo) -> dict[str, Any]:
        tracks = [
            {
                "sid": track.sid,
                "kind": "video" if track.type == models.TrackType.VIDEO else "audio",
                "source": SOURCES.get(track.source, "unknown"),
                "muted": track.muted,
                "codec": track.mime_type,
                # aiortc does not say which packets are whose.
                "packetsReceived": 0,
                "remote": "",
                **(self._probes[track.sid].report() if track.sid in self._probes else Probe.nothing()),
            }
            for track in info.tracks
        ]
        return {"sid": info.sid, "identity": info.identity, "name": info.name, "tracks": tracks}

    async def _publish(self, tracks: list[tuple[MediaStreamTrack, rtc.AddTrackRequest]]) -> None:
        for track, request in tracks:
            self._published[request.cid] = asyncio.Event()
            await self._send(rtc.SignalRequest(add_track=request))
            await self._published[request.cid].wait()
            self._publisher.addTrack(track)
        if tracks:
            await self._publisher.setLocalDescription(await self._publisher.createOffer())
            await self._send(rtc.SignalRequest(offer=_message(self._publisher.localDescription)))
            answer = await self._answers.get()
            await self._publisher.setRemoteDescription(RTCSessionDescription(answer.sdp, "answer"))

    def _subscribed(self, track: MediaStreamTrack) -> None:
        # The track's id in the description is its sid.
        if track.id in self._probes:
            self._probes[track.id].close()
        self._probes[track.id] = Probe(track)

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            if frame.type == aiohttp.WSMsgType.BINARY:
                try:
                    await self._handle(rtc.SignalResponse.FromString(frame.data))
                except Exception as error:
                    logging.exception("a message of the server")
                    self._errors.append(f"{type(error).__name__}: {error}")

    async def _handle(self, response: rtc.SignalResponse) -> None:
        match response.WhichOneof("message"):
            case "join":
                self._update(response.join.other_participants)
                self._joined.set_result(response.join)
            case "update":
                self._update(response.update.participants)
            case "track_published":
                self._published[response.track_published.cid].set()
            case "answer":
                await self._answers.put(response.answer)
            case "offer":
                await self._offers.put(response.offer)
            case "leave":
                self._events.append("disconnected")

    async def _answer_offers(self) -> None:
        while True:
            offer = await self._offers.get()
            description = RTCSessionDescription(offer.sdp, "offer")
            await self._subscriber.setRemoteDescription(description)
            await self._subscriber.setLocalDescription(await self._subscriber.createAnswer())
            answer = _message(self._subscriber.localDescription, offer.id)
            await self._send(rtc.SignalRequest(answer=answer))
            # aiortc never receives on sections that it learns of while it connects.
            await self._connected.wait()

    def _connection_changed(self) -> None:
        if self._subscriber.connectionState == "connected":
            self._connected.set()

    def _update(self, participants: Any) -> None:
        own = self._joined.result().participant.identity if self._joined.done() else None
        for info in participants:
            if info.state == models.ParticipantInfo.State.DISCONNECTED:
                self._participants.pop(info.identity, None)
            elif info.identity != own:
                self._participants[info.identity] = info

    async def _ping(self, seconds: int) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._send(rtc.SignalRequest(ping_req=rtc.Ping()))

    async def _send(self, request: rtc.SignalRequest) -> None:
        if self._socket is not None and not self._socket.closed:
            await self._socket.send_bytes(request.SerializeToString())


def _message(description: RTCSessionDescription, number: int = 1) -> rtc.SessionDescription:
    return rtc.SessionDescription(type=description.type, sdp=description.sdp, id=number)


async def main() -> None:
    client = Client()
    await serve(
        {
            "join": client.join,
            "leave": client.leave,
            "report": client.report,
        }
    )
    await client.leave()


asyncio.run(main())
