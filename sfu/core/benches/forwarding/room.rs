//! An engine with one publisher and its subscribers, without sockets, and with a handshake
//! that is a single datagram.

use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sfu_core::media::dtls::{DtlsEvent, DtlsFactory, DtlsSession};
use sfu_core::media::engine::{Engine, EngineCounters};
use sfu_core::media::ice::Path;
use sfu_core::media::rtp::{HeaderFields, write_header};
use sfu_core::media::srtp::{self, Outbound, SrtpProfile};
use sfu_core::media::{
    Codec, CodecKind, DtlsRole, ExtensionIds, Fingerprint, IceCredentials, MediaCommand, MediaKind,
    Mid, Receiver, RemoteTransport, RoomKey, Sender, SsrcPair, TrackKey, TransportId, VideoQuality,
    stun,
};

/// Packets of a frame: 1.3 Mbit/s at 30 frames a second.
pub(crate) const FRAME_PACKETS: usize = 5;
const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const HANDSHAKE: u8 = 22;
const ROOM: RoomKey = RoomKey(1);
const TRACK: TrackKey = TrackKey(1);
const SSRC: u32 = 1;
/// Virtual time between checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

fn keying_material() -> Vec<u8> {
    (0..PROFILE.keying_material_length()).map(|byte| byte as u8).collect()
}

struct StubFactory;

impl DtlsFactory for StubFactory {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint([0; 32])
    }

    fn session(&mut self, _: DtlsRole, _: Fingerprint, _: Instant) -> Box<dyn DtlsSession> {
        Box::new(StubSession(None))
    }
}

struct StubSession(Option<DtlsEvent>);

impl DtlsSession for StubSession {
    fn handle_datagram(&mut self, _: &[u8], _: Instant) {
        self.0 =
            Some(DtlsEvent::Connected { profile: PROFILE, keying_material: keying_material() });
    }
    fn handle_timeout(&mut self, _: Instant) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        None
    }
    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.0.take()
    }
    fn send(&mut self, _: &[u8], _: Instant) {}
    fn close(&mut self) {}
}

/// The room.
pub(crate) struct Room {
    engine: Engine,
    now: Instant,
    publisher: Outbound,
    sequence: u64,
    /// Our credentials of each transport.
    credentials: Vec<IceCredentials>,
    next_checks: Instant,
}

impl Room {
    /// A room whose subscribers are all connected and get the track.
    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    pub(crate) fn new(subscribers: usize) -> Self {
        let now = Instant::now();
        let engine = Engine::new(Box::new(StubFactory), StdRng::seed_from_u64(1), now);
        let (_, publisher) = srtp::from_keying_material(PROFILE, &keying_material(), true)
            .expect("the length is the profile's");
        let mut room = Self {
            engine,
            now,
            publisher,
            sequence: 1,
            credentials: Vec::new(),
            next_checks: now + CHECK_INTERVAL,
        };
        for index in 0..=subscribers {
            room.connect(index);
        }
        let transport = TransportId(0);
        let receivers = vec![receiver()];
        room.command(MediaCommand::SetReceivers { transport, receivers });
        for index in 1..=subscribers {
            let senders = vec![sender(index)];
            room.command(MediaCommand::SetSenders {
                transport: TransportId(index as u64),
                senders,
            });
        }
        // What comes first is a key frame, and all that happens once.
        for _ in 0..30 {
            let mut frame = room.next_frame();
            room.forward(&mut frame);
        }
        room
    }

    fn connect(&mut self, index: usize) {
        let transport = TransportId(index as u64);
        let ufrag = format!("ufrag{index}");
        let local = IceCredentials { pwd: format!("password-of-{ufrag}-long"), ufrag };
        self.command(MediaCommand::OpenTransport { transport, worker: 0, local: local.clone() });
        let remote = RemoteTransport {
            ice: IceCredentials { ufrag: "peer".to_owned(), pwd: "unused".to_owned() },
            fingerprint: Fingerprint([0; 32]),
            role: DtlsRole::Server,
        };
        self.command(MediaCommand::ConnectTransport { transport, remote });
        self.credentials.push(local);
        self.check(index);
        self.engine.handle_datagram(path(index), &mut [HANDSHAKE], self.now);
        self.settle();
    }

    /// Transports end without checks (RFC 7675).
    fn check(&mut self, index: usize) {
        let mut check = stun::write_check(&self.credentials[index], "peer", true);
        self.engine.handle_datagram(path(index), &mut check, self.now);
    }

    fn command(&mut self, command: MediaCommand) {
        self.engine.handle_command(ROOM, command, self.now);
        self.settle();
    }

    fn settle(&mut self) -> usize {
        while self.engine.poll_event().is_some() {}
        let mut datagrams = 0;
        self.engine.flush(|_, bytes, size| {
            // Answers and reports are short.
            if size > 1000 {
                datagrams += bytes.len().div_ceil(size);
            }
        });
        datagrams
    }

    /// Protected packets of the publisher's next frame; time goes on by a frame's time.
    pub(crate) fn next_frame(&mut self) -> Vec<Vec<u8>> {
        self.now += Duration::from_millis(33);
        while self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
            self.engine.handle_timeout(self.now);
            self.settle();
        }
        if self.now >= self.next_checks {
            self.next_checks = self.now + CHECK_INTERVAL;
            (0..self.credentials.len()).for_each(|index| self.check(index));
            self.settle();
        }
        let frame = (0..FRAME_PACKETS).map(|number| {
            let fields = HeaderFields {
                marker: number + 1 == FRAME_PACKETS,
                payload_type: 96,
                sequence: self.sequence as u16,
                timestamp: (self.sequence / FRAME_PACKETS as u64 * 3000) as u32,
                ssrc: SSRC,
            };
            let mut packet = Vec::with_capacity(1300);
            let header_length = write_header(&mut packet, fields, &[(1, b"0")]);
            // A whole slice of a key frame each (RFC 6184), so that no switch waits.
            packet.push(0x65);
            packet.resize(header_length + 1100, 0x55);
            self.publisher
                .protect_rtp(&mut packet, 0, header_length, SSRC, self.sequence)
                .expect("indices do not run out");
            self.sequence += 1;
            packet
        });
        frame.collect()
    }

    /// What the engine has done.
    pub(crate) fn counters(&self) -> EngineCounters {
        self.engine.counters()
    }

    /// Forwards a frame; returns how many packets left.
    pub(crate) fn forward(&mut self, frame: &mut [Vec<u8>]) -> usize {
        for packet in frame {
            self.engine.handle_datagram(path(0), packet, self.now);
        }
        self.settle()
    }
}

fn path(index: usize) -> Path {
    Path::Udp(([192, 0, 2, 1], 1000 + index as u16).into())
}

fn codec() -> Codec {
    Codec {
        kind: CodecKind::H264,
        payload_type: 96,
        rtx_payload_type: Some(97),
        clock_rate: 90_000,
        channels: 1,
        fmtp: "packetization-mode=1;profile-level-id=42e01f".to_owned(),
        nack: true,
        pli: true,
        transport_cc: false,
        remb: false,
    }
}

fn extensions() -> ExtensionIds {
    ExtensionIds { mid: Some(1), ..ExtensionIds::default() }
}

fn receiver() -> Receiver {
    Receiver {
        mid: Mid("0".to_owned()),
        track: TRACK,
        kind: MediaKind::Video,
        codecs: vec![codec()],
        extensions: extensions(),
        rids: Vec::new(),
        ssrcs: vec![SsrcPair { ssrc: SSRC, rtx: None }],
    }
}

fn sender(index: usize) -> Sender {
    Sender {
        mid: Mid("1".to_owned()),
        track: TRACK,
        kind: MediaKind::Video,
        ssrc: SsrcPair { ssrc: 1000 + 2 * index as u32, rtx: Some(1001 + 2 * index as u32) },
        codecs: vec![codec()],
        extensions: extensions(),
        max_quality: Some(VideoQuality::High),
        max_frame_rate: None,
        priority: 0,
        may_pause: true,
        playout_delay: None,
    }
}
