//! The engine with peers in memory. The handshake is a stub, everything else is real: checks,
//! SRTP, RTP and RTCP.

use std::net::SocketAddr;

use rand::SeedableRng as _;

use super::super::codec::Vp8Descriptor;
use super::super::dtls::DtlsSession;
use super::super::rtcp::SenderReport;
use super::super::rtcp::{RtcpMessage, parse, write_nack, write_pli, write_sender_report};
use super::super::rtp::{HeaderFields, RtpHeader, write_header};
use super::super::srtp::{Inbound, Outbound, SrtpProfile, from_keying_material};
use super::super::{
    Codec, CodecKind, ExtensionIds, Fingerprint, IceCredentials, MediaKind, Mid, Receiver, Rid,
    Sender, SsrcPair, VideoQuality, stun,
};
use super::*;

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const ROOM: RoomKey = RoomKey(1);
const TRACK: TrackKey = TrackKey(10);
const RID: u8 = 4;
const REPAIRED_RID: u8 = 5;
const MID: u8 = 3;
/// Long enough for any timer of the engine.
const SECOND: Duration = Duration::from_secs(1);

fn material() -> Vec<u8> {
    (0..PROFILE.keying_material_length() as u8).collect()
}

/// Is connected by the first datagram.
struct Stub(Vec<DtlsEvent>);

impl DtlsSession for Stub {
    fn handle_datagram(&mut self, _: &[u8], _: Instant) {
        let connected = DtlsEvent::Connected { profile: PROFILE, keying_material: material() };
        self.0.push(connected);
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.0.pop()
    }
    fn send(&mut self, _: &[u8], _: Instant) {}
    fn close(&mut self) {}
}

struct StubFactory;

impl DtlsFactory for StubFactory {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint([0; 32])
    }
    fn session(&mut self, _: DtlsRole, _: Fingerprint, _: Instant) -> Box<dyn DtlsSession> {
        Box::new(Stub(Vec::new()))
    }
}

/// A client's end of a transport.
struct Peer {
    id: TransportId,
    path: Path,
    inbound: Inbound,
    outbound: Outbound,
    /// Plain RTP packets that came.
    media: Vec<Vec<u8>>,
    /// Plain RTCP packets that came.
    control: Vec<Vec<u8>>,
}

struct World {
    engine: Engine,
    now: Instant,
    peers: Vec<Peer>,
    events: Vec<MediaEvent>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let engine = Engine::new(Box::new(StubFactory), StdRng::seed_from_u64(1), now);
        Self { engine, now, peers: Vec::new(), events: Vec::new() }
    }

    fn command(&mut self, command: MediaCommand) {
        self.engine.handle_command(ROOM, command, self.now);
        self.settle();
    }

    /// Opens a transport and brings it up; gives the peer's index.
    fn connect(&mut self) -> usize {
        let index = self.peers.len();
        let id = TransportId(index as u64);
        let local = IceCredentials {
            ufrag: format!("ufrag{index}"),
            pwd: format!("password-of-transport-{index}"),
        };
        let path = Path::Udp(SocketAddr::from(([192, 0, 2, 1], 1000 + index as u16)));
        let (inbound, outbound) = from_keying_material(PROFILE, &material(), true).unwrap();
        let (media, control) = (Vec::new(), Vec::new());
        self.peers.push(Peer { id, path, inbound, outbound, media, control });
        self.command(MediaCommand::OpenTransport { transport: id, local: local.clone() });
        let remote = RemoteTransport {
            ice: IceCredentials { ufrag: "peer".to_owned(), pwd: "p".repeat(24) },
            fingerprint: Fingerprint([1; 32]),
            role: DtlsRole::Server,
        };
        self.command(MediaCommand::ConnectTransport { transport: id, remote });
        self.datagram(index, stun::write_check(&local, "peer", true));
        self.datagram(index, vec![22]);
        index
    }

    fn datagram(&mut self, peer: usize, mut datagram: Vec<u8>) {
        let path = self.peers[peer].path;
        self.engine.handle_datagram(path, &mut datagram, self.now);
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.engine.handle_timeout(self.now);
            self.settle();
        }
    }

    fn settle(&mut self) {
        while let Some((room, event)) = self.engine.poll_event() {
            assert_eq!(room, ROOM);
            self.events.push(event);
        }
        let peers = &mut self.peers;
        self.engine.flush(|path, bytes, size| {
            let Some(peer) = peers.iter_mut().find(|peer| peer.path == path) else { return };
            for datagram in bytes.chunks(size) {
                peer.receive(datagram.to_vec());
            }
        });
    }

    /// Sends a packet of a simulcast layer.
    fn send(&mut self, peer: usize, layer: u8, sequence: u16, payload: &[u8]) {
        let rid = [b"qhf"[usize::from(layer)]];
        let extensions: [(u8, &[u8]); 2] = [(MID, b"0"), (RID, &rid)];
        self.send_with(peer, 96, 100 + u32::from(layer), sequence, &extensions, payload);
    }

    fn send_with(
        &mut self,
        peer: usize,
        payload_type: u8,
        ssrc: u32,
        sequence: u16,
        extensions: &[(u8, &[u8])],
        payload: &[u8],
    ) {
        let timestamp = u32::from(sequence) * 3000;
        let fields = HeaderFields { marker: true, payload_type, sequence, timestamp, ssrc };
        let mut packet = Vec::new();
        let header = write_header(&mut packet, fields, extensions);
        packet.extend_from_slice(payload);
        let index = u64::from(sequence);
        self.peers[peer].outbound.protect_rtp(&mut packet, 0, header, ssrc, index).unwrap();
        self.datagram(peer, packet);
    }

    fn send_control(&mut self, peer: usize, mut compound: Vec<u8>) {
        self.peers[peer].outbound.protect_rtcp(&mut compound).unwrap();
        self.datagram(peer, compound);
    }

    /// A publisher of three simulcast layers and a subscriber of the best.
    fn call(&mut self) -> (usize, usize) {
        let (publisher, subscriber) = (self.connect(), self.connect());
        self.command(MediaCommand::SetReceivers {
            transport: self.peers[publisher].id,
            receivers: vec![receiver()],
        });
        self.want(subscriber, Some(VideoQuality::High));
        (publisher, subscriber)
    }

    fn want(&mut self, subscriber: usize, max_quality: Option<VideoQuality>) {
        self.command(MediaCommand::SetSenders {
            transport: self.peers[subscriber].id,
            senders: vec![sender(max_quality)],
        });
    }
}

impl Peer {
    fn receive(&mut self, mut datagram: Vec<u8>) {
        if !(128..192).contains(&datagram[0]) {
            return;
        }
        if (192..=223).contains(&datagram[1]) {
            let length = self.inbound.unprotect_rtcp(&mut datagram).unwrap();
            datagram.truncate(length);
            self.control.push(datagram);
        } else {
            let header = RtpHeader::parse(&datagram).unwrap();
            let (length, _) =
                self.inbound.unprotect_rtp(&mut datagram, header.header_length).unwrap();
            datagram.truncate(length);
            self.media.push(datagram);
        }
    }

    /// Header and payload of each packet that came.
    fn packets(&self) -> Vec<(RtpHeader, &[u8])> {
        let parsed = |packet| {
            let header = RtpHeader::parse(packet).unwrap();
            (header, header.payload(packet).unwrap())
        };
        self.media.iter().map(|packet| parsed(packet.as_slice())).collect()
    }

    /// What was asked of the peer: lost packets and key frames by source.
    fn requests(&mut self) -> (Vec<(u32, u16)>, Vec<u32>) {
        let (mut lost, mut key_frames) = (Vec::new(), Vec::new());
        for compound in self.control.drain(..) {
            parse(&compound, |message| match message {
                RtcpMessage::Nack { ssrc, losses } => {
                    lost.extend(losses.sequences().map(|sequence| (ssrc, sequence)));
                }
                RtcpMessage::KeyFrameRequest { ssrc } => key_frames.push(ssrc),
                _ => {}
            });
        }
        (lost, key_frames)
    }
}

fn vp8(payload_type: u8, rtx: u8) -> Codec {
    Codec {
        kind: CodecKind::Vp8,
        payload_type,
        rtx_payload_type: Some(rtx),
        clock_rate: 90_000,
        channels: 1,
        fmtp: String::new(),
        nack: true,
        pli: true,
        transport_cc: false,
    }
}

fn receiver() -> Receiver {
    let extensions = ExtensionIds {
        mid: Some(MID),
        rid: Some(RID),
        repaired_rid: Some(REPAIRED_RID),
        ..ExtensionIds::default()
    };
    Receiver {
        mid: Mid("0".to_owned()),
        track: TRACK,
        kind: MediaKind::Video,
        codecs: vec![vp8(96, 97)],
        extensions,
        rids: ["q", "h", "f"].map(|rid| Rid(rid.to_owned())).to_vec(),
        ssrcs: Vec::new(),
    }
}

fn sender(max_quality: Option<VideoQuality>) -> Sender {
    Sender {
        mid: Mid("1".to_owned()),
        track: TRACK,
        kind: MediaKind::Video,
        ssrc: SsrcPair { ssrc: 900, rtx: Some(901) },
        codecs: vec![vp8(120, 121)],
        extensions: ExtensionIds::default(),
        max_quality,
    }
}

/// A VP8 packet with a 15-bit picture id.
fn frame(picture: u16, is_key: bool) -> Vec<u8> {
    let [high, low] = (picture | 0x8000).to_be_bytes();
    vec![0x90, 0x80, high, low, u8::from(!is_key), 1, 2, 3]
}

#[test]
fn a_transport_comes_up_and_its_room_is_told() {
    let mut world = World::new();
    let peer = world.connect();
    let (transport, state) = (world.peers[peer].id, TransportState::Connected);
    assert_eq!(world.events, [MediaEvent::Transport { transport, state }]);
}

#[test]
fn a_layer_is_forwarded_from_its_key_frame_under_the_subscribers_numbers() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 10, &frame(1, false));
    assert!(world.peers[subscriber].media.is_empty(), "a decoder cannot start here");
    world.send(publisher, 0, 11, &frame(2, true));
    world.send(publisher, 0, 12, &frame(3, false));
    let packets = world.peers[subscriber].packets();
    assert_eq!(packets.len(), 2);
    assert!(packets.iter().all(|(header, _)| (header.ssrc, header.payload_type) == (900, 120)));
    assert_eq!(packets[1].0.sequence, packets[0].0.sequence + 1);
    assert_eq!(packets[1].1, frame(3, false));
    let transport = world.peers[subscriber].id;
    let started = MediaEvent::ForwardingStarted { transport, track: TRACK };
    assert!(world.events.contains(&started));
    let layer =
        MediaEvent::LayerActive { track: TRACK, layer: 0, ssrc: 100, codec: CodecKind::Vp8 };
    assert!(world.events.contains(&layer));
}

#[test]
fn a_better_layer_is_asked_for_and_taken_at_its_key_frame() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 1, &frame(1, true));
    world.send(publisher, 2, 1, &frame(700, false));
    world.peers[publisher].requests();
    world.pass(SECOND);
    let (_, key_frames) = world.peers[publisher].requests();
    assert!(key_frames.contains(&102), "{key_frames:?}");
    world.send(publisher, 2, 2, &frame(701, true));
    world.send(publisher, 0, 2, &frame(2, false));
    let packets = world.peers[subscriber].packets();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[1].0.sequence, packets[0].0.sequence + 1);
    let picture = |payload: &[u8]| Vp8Descriptor::parse(payload).unwrap().picture_id.unwrap().0;
    assert_eq!(picture(packets[1].1), picture(packets[0].1) + 1);
}

#[test]
fn a_paused_track_sends_nothing() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.want(subscriber, None);
    world.send(publisher, 0, 1, &frame(1, true));
    assert!(world.peers[subscriber].media.is_empty());
    world.want(subscriber, Some(VideoQuality::Low));
    world.send(publisher, 0, 2, &frame(2, true));
    assert_eq!(world.peers[subscriber].media.len(), 1);
}

#[test]
fn what_the_publisher_lost_is_asked_for_and_its_repair_goes_on() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 1, &frame(1, true));
    world.send(publisher, 0, 3, &frame(3, false));
    world.pass(Duration::from_millis(20));
    let (lost, _) = world.peers[publisher].requests();
    assert_eq!(lost, [(100, 2)]);
    // RFC 4588: on its own source, with the original number before the payload.
    let mut repair = 2u16.to_be_bytes().to_vec();
    repair.extend_from_slice(&frame(2, false));
    let extensions: [(u8, &[u8]); 2] = [(MID, b"0"), (REPAIRED_RID, b"q")];
    world.send_with(publisher, 97, 555, 1, &extensions, &repair);
    let sequences: Vec<u16> =
        world.peers[subscriber].packets().iter().map(|(header, _)| header.sequence).collect();
    assert_eq!(sequences, [sequences[0], sequences[0] + 2, sequences[0] + 1]);
}

#[test]
fn what_a_subscriber_lost_is_sent_again_on_the_retransmission_stream() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 1, &frame(1, true));
    let lost = world.peers[subscriber].packets()[0].0.sequence;
    let mut nack = Vec::new();
    write_nack(&mut nack, 1, 900, &[lost]);
    world.send_control(subscriber, nack);
    let packets = world.peers[subscriber].packets();
    let (header, payload) = packets[1];
    assert_eq!((header.ssrc, header.payload_type), (901, 121));
    assert_eq!(payload[..2], lost.to_be_bytes());
    assert_eq!(payload[2..], frame(1, true));
    assert_eq!(world.engine.counters().retransmitted, 1);
}

#[test]
fn many_key_frame_requests_become_one() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 1, &frame(1, true));
    world.pass(SECOND);
    world.peers[publisher].requests();
    for _ in 0..10 {
        let mut pli = Vec::new();
        write_pli(&mut pli, 1, 900);
        world.send_control(subscriber, pli);
    }
    world.pass(Duration::from_millis(100));
    assert_eq!(world.peers[publisher].requests().1, [100]);
}

#[test]
fn reports_carry_the_publishers_clock_in_the_subscribers_ticks() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 1, &frame(1, true));
    let ntp = 5u64 << 32;
    let report = SenderReport { ssrc: 100, ntp, rtp_timestamp: 3000, packets: 1, octets: 1 };
    let mut compound = Vec::new();
    write_sender_report(&mut compound, &report, "publisher");
    world.send_control(publisher, compound);
    let sent = world.peers[subscriber].packets()[0].0.timestamp;
    world.pass(2 * SECOND);
    let mut reports = Vec::new();
    for compound in &world.peers[subscriber].control {
        parse(compound, |message| {
            if let RtcpMessage::SenderReport { ssrc: 900, ntp, rtp_timestamp } = message {
                reports.push((ntp, rtp_timestamp));
            }
        });
    }
    let (told_ntp, told_rtp) = reports[0];
    let seconds = (told_ntp - ntp) as f64 / (1u64 << 32) as f64;
    let ticks = f64::from(told_rtp.wrapping_sub(sent));
    assert!((ticks - seconds * 90_000.0).abs() < 2.0, "{seconds} s are {ticks} ticks");
}

#[test]
fn a_transport_without_consent_dies_and_takes_its_tracks() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    world.send(publisher, 0, 1, &frame(1, true));
    world.events.clear();
    world.pass(super::super::ice::CONSENT_TIMEOUT + SECOND);
    let (transport, state) = (world.peers[publisher].id, TransportState::Failed);
    assert!(world.events.contains(&MediaEvent::Transport { transport, state }));
    assert_eq!(world.engine.sizes(), (0, 0));
    world.send(publisher, 0, 2, &frame(2, true));
    assert_eq!(world.peers[subscriber].media.len(), 1);
}

#[test]
fn strangers_and_forgeries_change_nothing() {
    let mut world = World::new();
    let (publisher, subscriber) = world.call();
    let stranger = Path::Udp(SocketAddr::from(([203, 0, 113, 9], 9)));
    let mut forged = vec![0x90; 200];
    world.engine.handle_datagram(stranger, &mut forged.clone(), world.now);
    world.engine.handle_datagram(world.peers[publisher].path, &mut forged, world.now);
    for first in 0..=255u8 {
        world.engine.handle_datagram(stranger, &mut [first, 0, 0, 0], world.now);
        world.engine.handle_datagram(stranger, &mut [first], world.now);
    }
    world.settle();
    assert!(world.peers[subscriber].media.is_empty());
    assert!(world.engine.counters().dropped > 200);
}

#[test]
fn a_closed_room_leaves_nothing() {
    let mut world = World::new();
    world.call();
    world.engine.close_room(ROOM);
    assert_eq!(world.engine.sizes(), (0, 0));
    assert!(world.engine.by_ufrag.is_empty() && world.engine.by_path.is_empty());
    assert!(world.engine.tracks.is_empty());
}
