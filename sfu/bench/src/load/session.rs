//! One transport of a client: ICE, DTLS, SRTP, and counts of what comes in. No timers or tasks
//! of its own: the loop looks at it ten times a second.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt as _;
use rustc_hash::FxHashMap;
use sfu_core::media::IceCredentials;
use sfu_core::media::rtcp::{self, ReportBlock, RtcpMessage};
use sfu_core::media::rtp::{RtpHeader, Unwrapper};
use sfu_core::media::srtp::{Inbound, Outbound};
use sfu_core::media::stun::BindingRequest;
use sfu_core::media::twcc::ArrivalRecorder;

use super::data::DataClient;
use super::dtls::{DtlsClient, DtlsProgress, DtlsSession};
use super::publisher::{Plain, Publisher};
use super::signal::{OfferedSource, Remote};
use super::stun::{self, CheckAnswer, IceRole};
use super::totals::Totals;

/// Transaction id before the first check.
const UNUSED: [u8; 12] = [0; 12];
/// Source of our feedback; nothing is sent under it.
const FEEDBACK_SSRC: u32 = 1;
/// Time between checks until one is answered.
const CHECK_RETRY: Duration = Duration::from_millis(200);
/// Time between checks that keep the consent (RFC 7675 asks for 4 to 6 s).
const CHECK_INTERVAL: Duration = Duration::from_secs(4);
/// Every so many packets of a stream one is decrypted.
const SAMPLE: u64 = 16;
/// Looks between reports.
const LOOKS_PER_REPORT: u32 = 10;

/// A stream that the server sends.
#[derive(Debug)]
pub(super) struct Stream {
    ssrc: u32,
    is_rtx: bool,
    is_audio: bool,
    pub(super) track_sid: String,
    transport_cc: Option<u8>,
    /// Media packets, without padding.
    pub(super) packets: u64,
    numbers: Unwrapper,
    first: Option<u64>,
    seen: u64,
    /// Middle bits of the last report's NTP time, and when it came.
    last_report: Option<(u32, Instant)>,
}

/// A transport.
pub(super) struct Session {
    socket: Option<UdpSocket>,
    local: IceCredentials,
    remote: Remote,
    role: IceRole,
    transaction: [u8; 12],
    next_check: Instant,
    is_reachable: bool,
    dtls: Option<DtlsSession>,
    /// Whether the server offered data channels.
    has_data: bool,
    data: DataClient,
    srtp: Option<(Inbound, Outbound)>,
    pub(super) streams: Vec<Stream>,
    by_ssrc: FxHashMap<u32, usize>,
    arrivals: ArrivalRecorder,
    looks: u32,
    since: Instant,
    first_frame: Option<Duration>,
    pub(super) publisher: Publisher,
}

impl Session {
    /// A transport whose server is not known yet. `is_offerer` tells who made the offer, which
    /// decides who nominates (RFC 8445 section 6.1.1).
    pub(super) fn new(
        local: IceCredentials,
        remote: Remote,
        is_offerer: bool,
        since: Instant,
        now: Instant,
    ) -> Self {
        let controls = is_offerer || remote.is_lite;
        Self {
            socket: None,
            local,
            remote,
            role: if controls { IceRole::Controlling } else { IceRole::Controlled },
            transaction: UNUSED,
            next_check: now,
            is_reachable: false,
            dtls: None,
            has_data: !is_offerer,
            data: DataClient::new(),
            srtp: None,
            streams: Vec::new(),
            by_ssrc: FxHashMap::default(),
            arrivals: ArrivalRecorder::new(now),
            looks: rand::rng().random_range(0..LOOKS_PER_REPORT),
            since,
            first_frame: None,
            publisher: Publisher::default(),
        }
    }

    /// Whether media can flow.
    pub(super) fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// Time from the beginning of the join to the end of the first frame.
    pub(super) fn first_frame(&self) -> Option<Duration> {
        self.first_frame
    }

    /// Takes the server's address; only the first one counts.
    pub(super) fn reach(
        &mut self,
        server: SocketAddr,
        coalesce: bool,
        now: Instant,
    ) -> Result<Option<&UdpSocket>> {
        if self.socket.is_some() {
            return Ok(None);
        }
        self.socket = Some(super::socket::connect(server, coalesce)?);
        self.check(now);
        Ok(self.socket.as_ref())
    }

    /// The socket, once there is one.
    pub(super) fn socket(&self) -> Option<&UdpSocket> {
        self.socket.as_ref()
    }

    /// Takes what the server says that it will send.
    pub(super) fn set_sources(&mut self, sources: Vec<OfferedSource>) {
        for source in sources {
            let OfferedSource { ssrc, is_rtx, is_audio, track_sid, transport_cc } = source;
            if let Some(&known) = self.by_ssrc.get(&ssrc) {
                self.streams[known].track_sid = track_sid;
                continue;
            }
            self.by_ssrc.insert(ssrc, self.streams.len());
            self.streams.push(Stream {
                ssrc,
                is_rtx,
                is_audio,
                track_sid,
                transport_cc,
                packets: 0,
                numbers: Unwrapper::default(),
                first: None,
                seen: 0,
                last_report: None,
            });
        }
    }

    /// Takes a datagram that the kernel got at `nanos`.
    pub(super) fn handle(
        &mut self,
        datagram: &mut [u8],
        nanos: u64,
        now: Instant,
        client: &DtlsClient,
        totals: &mut Totals,
    ) -> Result<()> {
        // RFC 7983 section 7.
        match datagram.first() {
            Some(0..=3) => self.handle_stun(datagram, client, now),
            Some(20..=63) => self.handle_dtls(Some(datagram), now),
            Some(128..=191) if matches!(datagram.get(1), Some(192..=223)) => {
                totals.counters.control += 1;
                self.handle_rtcp(datagram, now);
                Ok(())
            }
            Some(128..=191) => {
                self.handle_rtp(datagram, nanos, now, totals);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_stun(&mut self, datagram: &[u8], client: &DtlsClient, now: Instant) -> Result<()> {
        if let Some(request) = BindingRequest::parse(datagram) {
            let peer = self.socket.as_ref().and_then(|socket| socket.peer_addr().ok());
            if let Some(peer) = peer.filter(|_| request.is_authentic(&self.local.pwd)) {
                let mut out = Vec::new();
                request.success(peer, &self.local.pwd, &mut out);
                self.send(&out);
            }
            return Ok(());
        }
        match stun::answer(datagram, &self.transaction) {
            Some(CheckAnswer::Success) if !self.is_reachable => {
                self.is_reachable = true;
                self.next_check = now + CHECK_INTERVAL;
                self.dtls = Some(client.session(self.remote.transport.fingerprint, now)?);
                self.handle_dtls(None, now)
            }
            Some(CheckAnswer::Error) => {
                // Role conflict: the other one is right (RFC 8445 section 7.2.5.1).
                self.transaction = UNUSED;
                self.role = match self.role {
                    IceRole::Controlling => IceRole::Controlled,
                    IceRole::Controlled => IceRole::Controlling,
                };
                self.check(now);
                Ok(())
            }
            Some(CheckAnswer::Success) | None => Ok(()),
        }
    }

    fn handle_dtls(&mut self, datagram: Option<&[u8]>, now: Instant) -> Result<()> {
        let Some(dtls) = &mut self.dtls else { return Ok(()) };
        match dtls.handle(datagram, now)? {
            DtlsProgress::None => {}
            DtlsProgress::Connected(srtp) => {
                self.srtp = Some(*srtp);
                // Ours waits for the client's association; pion begins one itself.
                if self.has_data && self.remote.is_lite {
                    self.data.connect(now)?;
                    self.send_data(now)?;
                }
            }
            DtlsProgress::Data(packets) => {
                for packet in packets {
                    self.data.handle(packet, now);
                }
                self.send_data(now)?;
            }
        }
        self.send_dtls();
        Ok(())
    }

    fn send_data(&mut self, now: Instant) -> Result<()> {
        let Some(dtls) = &mut self.dtls else { return Ok(()) };
        while let Some(packets) = self.data.poll_transmit(now) {
            for packet in packets {
                dtls.send(&packet)?;
            }
        }
        Ok(())
    }

    fn send_dtls(&mut self) {
        while let Some(datagram) = self.dtls.as_mut().and_then(DtlsSession::poll_transmit) {
            self.send(&datagram);
        }
    }

    fn handle_rtcp(&mut self, datagram: &mut [u8], now: Instant) {
        let Some((inbound, outbound)) = &mut self.srtp else { return };
        let Ok(length) = inbound.unprotect_rtcp(datagram) else { return };
        let compound = &datagram[..length];
        let (streams, by_ssrc) = (&mut self.streams, &self.by_ssrc);
        rtcp::parse(compound, |message| {
            if let RtcpMessage::SenderReport { ssrc, ntp, .. } = message
                && let Some(&index) = by_ssrc.get(&ssrc)
            {
                streams[index].last_report = Some(((ntp >> 16) as u32, now));
            }
        });
        let repairs = self.publisher.handle_rtcp(compound, now);
        let repairs: Vec<Vec<u8>> =
            repairs.into_iter().filter_map(|plain| plain.protect(outbound).ok()).collect();
        repairs.iter().for_each(|packet| self.send(packet));
    }

    fn handle_rtp(&mut self, packet: &mut [u8], nanos: u64, now: Instant, totals: &mut Totals) {
        let Some(header) = RtpHeader::parse(packet) else { return };
        let Some(&index) = self.by_ssrc.get(&header.ssrc) else {
            totals.counters.unknown += 1;
            return;
        };
        let stream = &mut self.streams[index];
        if let Some(value) = header.extension(packet, stream.transport_cc)
            && let Some(number) = value.first_chunk()
        {
            self.arrivals.received(u16::from_be_bytes(*number), now);
        }
        let number = stream.numbers.unwrap(header.sequence);
        stream.first.get_or_insert(number);
        stream.seen += 1;
        if stream.is_rtx {
            totals.counters.extra += 1;
            return;
        }
        // Whether padding follows a payload or is all shows when the packet is decrypted.
        let has_padding = packet[0] & 0x20 != 0;
        let is_sample = stream.packets.is_multiple_of(SAMPLE);
        let bytes = packet.len() as u64;
        let opened = match &mut self.srtp {
            Some((inbound, _)) if has_padding || is_sample => {
                let length = inbound.unprotect_rtp(packet, header.header_length).ok();
                Some(length.map(|(length, _)| &packet[..length]))
            }
            _ => None,
        };
        let is_empty = |plain: &[u8]| header.payload(plain).is_some_and(<[u8]>::is_empty);
        if has_padding && opened.flatten().is_some_and(is_empty) {
            totals.counters.extra += 1;
            return;
        }
        stream.packets += 1;
        totals.counters.media += 1;
        totals.counters.media_bytes += bytes;
        if (header.marker || stream.is_audio) && self.first_frame.is_none() {
            self.first_frame = Some(now.duration_since(self.since));
        }
        if let Some(plain) = opened {
            totals.sample(plain, nanos);
        }
    }

    /// Looks at timers; called ten times a second.
    pub(super) fn look(&mut self, now: Instant) -> Result<()> {
        if self.socket.is_some() && now >= self.next_check {
            self.check(now);
        }
        if let Some(dtls) = &mut self.dtls {
            dtls.handle_timeout(now);
        }
        self.data.handle_timeout(now);
        self.send_data(now)?;
        self.send_dtls();
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_REPORT) {
            self.report(now);
        }
        self.give_feedback();
        Ok(())
    }

    fn check(&mut self, now: Instant) {
        // Until it is answered the same check is sent again (RFC 8489 section 6.2.1): an answer
        // that comes late counts, too.
        if self.is_reachable || self.transaction == UNUSED {
            self.transaction = rand::rng().random();
        }
        let remote = &self.remote.transport.ice;
        let check = stun::check(&self.local, remote, self.role, self.transaction);
        self.send(&check);
        self.next_check = now + if self.is_reachable { CHECK_INTERVAL } else { CHECK_RETRY };
    }

    /// Sender reports of what we publish, receiver reports of what we get.
    fn report(&mut self, now: Instant) {
        let reports = self.publisher.reports();
        if !reports.is_empty() {
            self.send_control(reports);
        }
        let blocks: Vec<ReportBlock> =
            self.streams.iter().filter_map(|stream| stream.report(now)).collect();
        for blocks in blocks.chunks(31) {
            let mut out = Vec::new();
            rtcp::write_receiver_report(&mut out, FEEDBACK_SSRC, blocks, "load");
            self.send_control(out);
        }
    }

    fn give_feedback(&mut self) {
        let media = self.streams.first().map_or(0, |stream| stream.ssrc);
        while self.arrivals.has_feedback() {
            let mut out = Vec::new();
            self.arrivals.write(&mut out, (FEEDBACK_SSRC, media));
            self.send_control(out);
        }
    }

    fn send_control(&mut self, mut compound: Vec<u8>) {
        let Some((_, outbound)) = &mut self.srtp else { return };
        if outbound.protect_rtcp(&mut compound).is_ok() {
            self.send(&compound);
        }
    }

    /// Sends media; returns how many packets left.
    pub(super) fn publish(&mut self, frame: Vec<Plain>) -> Result<()> {
        let Some((_, outbound)) = &self.srtp else { return Ok(()) };
        for plain in frame {
            let packet = plain.protect(outbound)?;
            self.send(&packet);
        }
        Ok(())
    }

    /// What the kernel does not take is lost, as on any network.
    fn send(&self, datagram: &[u8]) {
        if let Some(socket) = &self.socket {
            let _lost = socket.send(datagram);
        }
    }
}

impl Stream {
    fn report(&self, now: Instant) -> Option<ReportBlock> {
        let (first, highest) = (self.first?, self.numbers.highest()?);
        let lost = (highest - first + 1).saturating_sub(self.seen);
        let (last_sender_report, delay_since) = self.last_report.map_or((0, 0), |(ntp, at)| {
            let delay = now.duration_since(at).as_micros() * 65_536 / 1_000_000;
            (ntp, u32::try_from(delay).unwrap_or(u32::MAX))
        });
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: 0,
            cumulative_lost: u32::try_from(lost).unwrap_or(u32::MAX),
            highest_sequence: highest as u32,
            jitter: 0,
            last_sender_report,
            delay_since,
        })
    }
}
