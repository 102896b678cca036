"""Calls the methods of RoomService and AgentDispatchService with LiveKit's server SDK: once with
its grant, once without. Takes the URL, writes one line of JSON for each call:
{"method": ..., "allowed": "ok" or the error's code, "denied": the error's code}."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable

from livekit import api, rtc

ROOM = "server-sdk"
ELSEWHERE = "elsewhere"
KEY, SECRET = "devkey", "secret"
Call = Callable[[api.LiveKitAPI], Awaitable[object]]


def token(**grants: object) -> str:
    return api.AccessToken(KEY, SECRET).with_identity("caller").with_grants(api.VideoGrants(**grants)).to_jwt()


async def outcome(client: api.LiveKitAPI, call: Call) -> str:
    try:
        await call(client)
    except api.TwirpError as error:
        return str(error.code)
    return "ok"


def calls(sid: str) -> list[tuple[str, Call]]:
    who = {"room": ROOM, "identity": "human"}
    guest = {"room": ROOM, "identity": "guest", "destination_room": ELSEWHERE}
    forward = api.ForwardParticipantRequest(**who, destination_room=ELSEWHERE)

    async def delete_dispatch(client: api.LiveKitAPI) -> None:
        # Who may not list them tries one that it does not know.
        found = await listed(client)
        await client.agent_dispatch.delete_dispatch(found or "AD_unknown", ROOM)

    return [
        ("CreateRoom", lambda c: c.room.create_room(api.CreateRoomRequest(name=ROOM, empty_timeout=60))),
        ("ListRooms", lambda c: c.room.list_rooms(api.ListRoomsRequest(names=[ROOM]))),
        ("UpdateRoomMetadata", lambda c: c.room.update_room_metadata(api.UpdateRoomMetadataRequest(room=ROOM, metadata="m"))),
        ("ListParticipants", lambda c: c.room.list_participants(api.ListParticipantsRequest(room=ROOM))),
        ("GetParticipant", lambda c: c.room.get_participant(api.RoomParticipantIdentity(**who))),
        ("UpdateParticipant", lambda c: c.room.update_participant(api.UpdateParticipantRequest(**who, name="Human"))),
        ("MutePublishedTrack", lambda c: c.room.mute_published_track(api.MuteRoomTrackRequest(**who, track_sid=sid, muted=True))),
        ("UpdateSubscriptions", lambda c: c.room.update_subscriptions(api.UpdateSubscriptionsRequest(**who, track_sids=[], subscribe=True))),
        ("SendData", lambda c: c.room.send_data(api.SendDataRequest(room=ROOM, data=b"hi", topic="t"))),
        ("CreateDispatch", lambda c: c.agent_dispatch.create_dispatch(api.CreateAgentDispatchRequest(room=ROOM, agent_name="nobody"))),
        ("ListDispatch", lambda c: c.agent_dispatch.list_dispatch(ROOM)),
        ("DeleteDispatch", delete_dispatch),
        ("ForwardParticipant", lambda c: c.room.forward_participant(forward)),
        ("MoveParticipant", lambda c: c.room.move_participant(api.MoveParticipantRequest(**guest))),
        ("RemoveParticipant", lambda c: c.room.remove_participant(api.RoomParticipantIdentity(**who))),
        ("DeleteRoom", lambda c: c.room.delete_room(api.DeleteRoomRequest(room=ROOM))),
    ]


async def listed(client: api.LiveKitAPI) -> str | None:
    """Id of a dispatch, for who may know it."""
    try:
        return (await client.agent_dispatch.list_dispatch(ROOM))[0].id
    except api.TwirpError:
        return None


async def enter(url: str, identity: str) -> tuple[rtc.Room, str]:
    """A participant with a microphone."""
    room = rtc.Room()
    grants = api.VideoGrants(room_join=True, room=ROOM)
    participant = api.AccessToken(KEY, SECRET).with_identity(identity).with_grants(grants).to_jwt()
    await room.connect(url.replace("http", "ws", 1), participant)
    track = rtc.LocalAudioTrack.create_audio_track("tone", rtc.AudioSource(48_000, 1))
    publication = await room.local_participant.publish_track(track)
    return room, publication.sid


async def main(url: str) -> None:
    human, sid = await enter(url, "human")
    guest, _ = await enter(url, "guest")
    everything = token(
        room_create=True, room_list=True, room_admin=True, room=ROOM, destination_room=ELSEWHERE
    )
    nothing = token(room_join=True, room=ROOM)
    async with api.LiveKitAPI(url, token=everything) as good, api.LiveKitAPI(url, token=nothing) as bad:
        for method, call in calls(sid):
            denied = await outcome(bad, call)
            allowed = await outcome(good, call)
            print(json.dumps({"method": method, "allowed": allowed, "denied": denied}), flush=True)
    await human.disconnect()
    await guest.disconnect()


asyncio.run(main(sys.argv[1]))
# A thread of the SDK that calls into an interpreter which is about to end aborts the process
# (livekit 1.1.21).
os._exit(0)
