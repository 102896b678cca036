"""A client of a room with LiveKit's Python SDK, driven by the end-to-end tests.

Takes commands as JSON lines on the standard input and answers on the standard output, like the
browser driver: {"id": 1, "command": "join", ...} is answered by {"id": 1, "result": ...} or
{"id": 1, "error": "..."}. The end of the input ends the program.
"""

import asyncio
import functools
import inspect
import textwrap
from collections import Counter, deque
from typing import Any

from livekit import rtc

from commands import serve
from gaps import GapWatch
from probe import Probe
from publish import Picture, publish_colour, publish_tone

# Entries kept of messages and events.
LONGEST_LIST = 500
# Seconds between two requests for the same track.
ASK_AGAIN = 1.0

LOGGED_EVENTS = {
    "reconnecting": "reconnecting",
    "reconnected": "reconnected",
    "disconnected": "disconnected",
    "participant_connected": "participantConnected",
    "participant_disconnected": "participantDisconnected",
    "track_subscribed": "trackSubscribed",
    "track_unsubscribed": "trackUnsubscribed",
    "track_muted": "trackMuted",
    "track_unmuted": "trackUnmuted",
}

SOURCES = {
    rtc.TrackSource.SOURCE_CAMERA: "camera",
    rtc.TrackSource.SOURCE_MICROPHONE: "microphone",
    rtc.TrackSource.SOURCE_SCREENSHARE: "screen_share",
    rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO: "screen_share_audio",
    rtc.TrackSource.SOURCE_UNKNOWN: "unknown",
}

STATES = {
    rtc.ConnectionState.CONN_CONNECTED: "connected",
    rtc.ConnectionState.CONN_RECONNECTING: "reconnecting",
    rtc.ConnectionState.CONN_DISCONNECTED: "disconnected",
}


class Client:
    def __init__(self) -> None:
        self._room = rtc.Room()
        self._probes: dict[str, Probe] = {}
        # Tracks to subscribe to again.
        self._again: set[str] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._gap_watch = GapWatch()
        self._sources: list[asyncio.Task[None]] = []
        self._messages: deque[dict[str, str]] = deque(maxlen=LONGEST_LIST)
        self._events: deque[str] = deque(maxlen=LONGEST_LIST)
        self._counts: Counter[str] = Counter()
        # What tests keep between evaluations.
        self._kept: dict[str, Any] = {}
        self._listen()

    async def join(self, url: str, token: str, **options: Any) -> None:
        single = options.get("singlePeerConnection", True)
        room_options = rtc.RoomOptions(single_peer_connection=single)
        if "key" in options:
            provider = rtc.KeyProviderOptions(shared_key=options["key"].encode())
            room_options.encryption = rtc.E2EEOptions(key_provider_options=provider)
        await self._room.connect(url, token, room_options)
        self._log("connected")
        if "colour" in options:
            picture = Picture(**options["picture"]) if "picture" in options else Picture()
            await self.publish_colour(options["colour"], picture=picture)
        if "toneHz" in options:
            await self.publish_tone(options["toneHz"])

    async def leave(self) -> None:
        for source in self._sources:
            source.cancel()
        await self._room.disconnect()

    async def publish_colour(self, colour: str, **options: Any) -> None:
        self._sources.append(await publish_colour(self._room, colour, **options))

    async def publish_tone(self, hertz: float, **options: Any) -> None:
        self._sources.append(await publish_tone(self._room, hertz, **options))

    async def evaluate(self, body: str) -> Any:
        """Runs the body of a function of a test."""
        names: dict[str, Any] = {
            "asyncio": asyncio,
            "client": self,
            "kept": self._kept,
            "room": self._room,
            "rtc": rtc,
            "Picture": Picture,
        }
        exec("async def test():\n" + textwrap.indent(inspect.cleandoc(body), "    "), names)
        return await names["test"]()

    async def send(self, topic: str, text: str) -> None:
        await self._room.local_participant.publish_data(text, reliable=True, topic=topic)

    async def gaps(self) -> dict[str, float]:
        return self._gap_watch.take()

    async def report(self) -> dict[str, Any]:
        # Copies: others come and go while we wait for statistics.
        remotes = list(self._room.remote_participants.values())
        connected = self._room.connection_state == rtc.ConnectionState.CONN_CONNECTED
        return {
            "state": STATES[self._room.connection_state],
            "roomSid": await self._room.sid if connected else "",
            "identity": self._room.local_participant.identity if connected else "",
            "server": {"version": "", "nodeId": "", "debugInfo": ""},
            "participants": [await self._participant(remote) for remote in remotes],
            "messages": list(self._messages),
            "events": list(self._events),
            "counts": dict(self._counts),
            "errors": [],
        }

    async def _participant(self, participant: rtc.RemoteParticipant) -> dict[str, Any]:
        publications = list(participant.track_publications.values())
        return {
            "sid": participant.sid,
            "identity": participant.identity,
            "name": participant.name,
            "tracks": [await self._track(publication) for publication in publications],
        }

    async def _track(self, publication: rtc.RemoteTrackPublication) -> dict[str, Any]:
        probe = self._probes.get(publication.sid)
        seen = {
            "codec": "",
            "packetsReceived": 0,
            "framesDecoded": 0,
            "width": 0,
            "height": 0,
            "colour": (0, 0, 0),
            "audioEnergy": 0,
            "toneHz": 0,
            "remote": "",
        }
        return {
            "sid": publication.sid,
            "kind": "video" if publication.kind == rtc.TrackKind.KIND_VIDEO else "audio",
            "source": SOURCES[publication.source],
            "muted": publication.muted,
            **(seen if probe is None else await probe.report()),
        }

    def _log(self, event: str) -> None:
        self._events.append(event)
        self._counts[event] += 1

    def _listen(self) -> None:
        room = self._room
        for name, logged in LOGGED_EVENTS.items():
            room.on(name, lambda *_, logged=logged: self._log(logged))

        @room.on("track_subscribed")
        def _subscribed(
            track: rtc.RemoteTrack,
            publication: rtc.RemoteTrackPublication,
            participant: rtc.RemoteParticipant,
        ) -> None:
            self._probes[publication.sid] = Probe(
                track,
                shown=functools.partial(self._gap_watch.tick, participant.identity),
                stuck=functools.partial(self._show_again, publication),
            )

        @room.on("track_unsubscribed")
        def _unsubscribed(
            _: rtc.RemoteTrack,
            publication: rtc.RemoteTrackPublication,
            participant: rtc.RemoteParticipant,
        ) -> None:
            if probe := self._probes.pop(publication.sid, None):
                probe.close()
            if publication.sid in self._again:
                self._again.remove(publication.sid)
                task = asyncio.create_task(self._ask_for(publication, participant))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

        @room.on("data_received")
        def _data(packet: rtc.DataPacket) -> None:
            sender = packet.participant.identity if packet.participant else ""
            text = packet.data.decode(errors="replace")
            self._messages.append({"from": sender, "topic": packet.topic or "", "text": text})

    def subscribe_again(self, publication: rtc.RemoteTrackPublication) -> None:
        """Gives a track up and subscribes to it as soon as it is gone."""
        self._again.add(publication.sid)
        publication.set_subscribed(False)

    async def _ask_for(
        self, publication: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        """Subscribes until the track is there. The SDK sends each wish by a task of its own, and
        now and then the later one first (livekit 1.2.0)."""
        while publication.track is None and publication.sid in participant.track_publications:
            publication.set_subscribed(True)
            await asyncio.sleep(ASK_AGAIN)

    def _show_again(self, publication: rtc.RemoteTrackPublication) -> None:
        self._log("rendererStuck")
        self.subscribe_again(publication)


async def main() -> None:
    client = Client()
    await serve(
        {
            "join": client.join,
            "leave": client.leave,
            "send": client.send,
            "report": client.report,
            "evaluate": client.evaluate,
            "gaps": client.gaps,
        }
    )
    await client.leave()


asyncio.run(main())
