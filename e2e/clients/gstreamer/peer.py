"""Two webrtcbin elements of GStreamer: one publishes, one subscribes."""

import asyncio
import re
import sys
import threading
from typing import Any

# Where Debian has the bindings; they are not on the package index.
sys.path.append("/usr/lib/python3/dist-packages")

import gi  # noqa: E402

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

from arrivals import Arrivals  # noqa: E402

# A key frame whenever one is asked for, and little work for the machine.
PUBLISHER = """
webrtcbin name=peer bundle-policy=max-bundle
videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=20/1
! vp8enc deadline=1 error-resilient=partitions keyframe-max-dist=2000 target-bitrate=400000
! rtpvp8pay picture-id-mode=15-bit ! application/x-rtp,media=video,encoding-name=VP8,payload=96
! peer.
audiotestsrc is-live=true wave=sine ! audio/x-raw,rate=48000,channels=2 ! opusenc ! rtpopuspay
! application/x-rtp,media=audio,encoding-name=OPUS,payload=97,encoding-params=(string)2 ! peer.
"""
# Time until a promise is kept, seconds.
PATIENCE = 20


class Peer:
    def __init__(self) -> None:
        Gst.init(None)
        threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
        self._publisher: Gst.Pipeline | None = None
        self._subscriber = Gst.Pipeline.new("subscriber")
        self._receiver = Gst.ElementFactory.make("webrtcbin")
        self._receiver.set_property("bundle-policy", "max-bundle")
        self._receiver.connect("pad-added", self._receive)
        self._receiver.connect("on-new-transceiver", lambda _, transceiver: repair(transceiver))
        self._subscriber.add(self._receiver)
        self.arrivals = {"video": Arrivals(), "audio": Arrivals()}

    async def offer(self) -> str:
        self._publisher = Gst.parse_launch(PUBLISHER)
        peer = self._publisher.get_by_name("peer")
        for index in range(2):
            repair(peer.emit("get-transceiver", index))
        self._publisher.set_state(Gst.State.PLAYING)
        # Only after the payloaders know their formats is the offer complete.
        pads = [f"sink_{index}" for index in range(2)]
        while not all(peer.get_static_pad(pad).get_current_caps() for pad in pads):
            await asyncio.sleep(0.02)
        await self._negotiate(peer, "create-offer", "offer", None)
        return await self._local(peer)

    async def accept(self, sdp: str) -> None:
        await self._remote(self._publisher.get_by_name("peer"), sdp, GstWebRTC.WebRTCSDPType.ANSWER)

    async def answer(self, sdp: str) -> str:
        self._subscriber.set_state(Gst.State.PLAYING)
        sdp = without_redundancy(sdp)
        await self._remote(self._receiver, sdp, GstWebRTC.WebRTCSDPType.OFFER)
        await self._negotiate(self._receiver, "create-answer", "answer", None)
        return await self._local(self._receiver)

    async def close(self) -> None:
        for pipeline in (self._publisher, self._subscriber):
            if pipeline is not None:
                pipeline.set_state(Gst.State.NULL)

    async def _negotiate(self, peer: Gst.Element, signal: str, name: str, options: Any) -> None:
        reply = await promise(lambda kept: peer.emit(signal, options, kept))
        description = reply.get_value(name)
        await promise(lambda kept: peer.emit("set-local-description", description, kept))

    async def _remote(self, peer: Gst.Element, sdp: str, kind: Any) -> None:
        _, message = GstSdp.SDPMessage.new_from_text(sdp)
        description = GstWebRTC.WebRTCSessionDescription.new(kind, message)
        await promise(lambda kept: peer.emit("set-remote-description", description, kept))

    async def _local(self, peer: Gst.Element) -> str:
        return peer.get_property("local-description").sdp.as_text()

    def _receive(self, _: Gst.Element, pad: Gst.Pad) -> None:
        if pad.direction != Gst.PadDirection.SRC:
            return
        kind = pad.get_current_caps().get_structure(0).get_string("media")
        decoder = "rtpvp8depay ! vp8dec" if kind == "video" else "rtpopusdepay ! opusdec"
        chain = Gst.parse_bin_from_description(f"{decoder} ! fakesink name=end sync=false", True)
        end = chain.get_by_name("end").get_static_pad("sink")
        end.add_probe(Gst.PadProbeType.BUFFER, self._arrived, kind)
        self._subscriber.add(chain)
        chain.sync_state_with_parent()
        pad.link(chain.get_static_pad("sink"))

    def _arrived(self, _: Gst.Pad, __: Gst.PadProbeInfo, kind: str) -> Gst.PadProbeReturn:
        self.arrivals[kind].note()
        return Gst.PadProbeReturn.OK


def repair(transceiver: GstWebRTC.WebRTCRTPTransceiver) -> None:
    """Lost packets are asked for and sent again, which is off by default."""
    transceiver.set_property("do-nack", True)


def without_redundancy(offer: str) -> str:
    """webrtcbin takes every codec that is offered: leaves out audio/red, of which it decodes none."""
    for number in re.findall(r"a=rtpmap:(\d+) red/48000", offer):
        offer = re.sub(rf"^a=(rtpmap|fmtp|rtcp-fb):{number} .*\r\n", "", offer, flags=re.MULTILINE)
        offer = re.sub(rf"^(m=audio .*?) {number}( |\r)", r"\1\2", offer, flags=re.MULTILINE)
    return offer


async def promise(ask: Any) -> Any:
    """What webrtcbin answers to a signal that takes a promise."""
    kept = Gst.Promise.new()
    ask(kept)
    result = await asyncio.wait_for(asyncio.to_thread(kept.wait), PATIENCE)
    if result != Gst.PromiseResult.REPLIED:
        raise RuntimeError(f"webrtcbin answers {result}")
    reply = kept.get_reply()
    if reply is not None and reply.has_field("error"):
        raise RuntimeError(str(reply.get_value("error")))
    return reply
