"""A participant whose media go through GStreamer.

Signalling is LiveKit's protocol on two peer connections, spoken here. Commands are JSON lines on the standard input, like those of the other
clients: {"id": 1, "command": "join", ...} is answered by {"id": 1, "result": ...} or
{"id": 1, "error": "..."}. The end of the input ends the program.
"""

import asyncio
import json
import logging
import re
import sys
from typing import Any

import aiohttp
from livekit.protocol import models, rtc

from peer import Peer

PROTOCOL = 16
QUERY = f"protocol={PROTOCOL}&sdk=python&auto_subscribe=1"
KINDS = {"audio": models.TrackType.AUDIO, "video": models.TrackType.VIDEO}
SOURCES = {"audio": models.TrackSource.MICROPHONE, "video": models.TrackSource.CAMERA}


class Client:
    def __init__(self) -> None:
        self._peer = Peer()
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, url: str, token: str) -> None:
        self._http = aiohttp.ClientSession()
        address = f"{url}/rtc?access_token={token}&{QUERY}"
        self._socket = await self._http.ws_connect(address)
        joined = await self._receive()
        if joined is None or joined.WhichOneof("message") != "join":
            raise RuntimeError(f"the first message is {joined}")
        interval = joined.join.ping_interval
        self._tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._ping(interval)),
        ]

    async def publish(self) -> None:
        sdp = await self._peer.offer()
        for kind, cid in published(sdp):
            request = rtc.AddTrackRequest(
                cid=cid, name=kind, type=KINDS[kind], source=SOURCES[kind], width=320, height=240
            )
            await self._send(rtc.SignalRequest(add_track=request))
        await self._send(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=sdp)))

    async def reset(self) -> None:
        for arrivals in self._peer.arrivals.values():
            arrivals.reset()

    async def report(self) -> dict[str, Any]:
        return {kind: arrivals.report() for kind, arrivals in self._peer.arrivals.items()}

    async def leave(self) -> None:
        await self._send(rtc.SignalRequest(leave=rtc.LeaveRequest()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._peer.close()
        if self._tasks:
            await self._http.close()

    async def _listen(self) -> None:
        while (response := await self._receive()) is not None:
            match response.WhichOneof("message"):
                case "offer":
                    sdp = await self._peer.answer(response.offer.sdp)
                    answer = rtc.SessionDescription(type="answer", sdp=sdp, id=response.offer.id)
                    await self._send(rtc.SignalRequest(answer=answer))
                case "answer":
                    await self._peer.accept(response.answer.sdp)

    async def _receive(self) -> Any:
        message = await self._socket.receive()
        if message.type != aiohttp.WSMsgType.BINARY:
            return None
        return rtc.SignalResponse.FromString(message.data)

    async def _ping(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self._send(rtc.SignalRequest(ping=0))

    async def _send(self, request: Any) -> None:
        await self._socket.send_bytes(request.SerializeToString())


def published(sdp: str) -> list[tuple[str, str]]:
    """Kind and track id of each section of an offer."""
    sections = re.split(r"^m=", sdp, flags=re.MULTILINE)[1:]
    found = [(section.split()[0], re.search(r"msid:\S+ (\S+)", section)) for section in sections]
    return [(kind, msid[1]) for kind, msid in found if msid]


async def serve(client: Client) -> None:
    """Calls the method that each line names until the input ends."""
    lines = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        request = json.loads(line)
        number, command = request.pop("id"), request.pop("command")
        try:
            answer = {"id": number, "result": await getattr(client, command)(**request)}
        except Exception as error:  # The test shows it.
            answer = {"id": number, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await client.close()


async def main() -> None:
    await serve(Client())


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main())
