//! The limit of the machine for the same traffic: a loop that copies, seals with AES-GCM and
//! sends in segments. It receives nothing, knows no clients and keeps nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use sfu_core::media::rtp::{HeaderFields, RtpHeader, write_header};
use sfu_core::media::srtp::{Inbound, Outbound, SrtpProfile};

use crate::load::socket;
use crate::source::Encoder;
use crate::workload::{self, Flow};
use e2e::bench::Usage;

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
/// Receivers listen from here on.
const FIRST_PORT: u16 = 30_000;
/// Most datagrams and bytes of one segmented send.
const MAX_SEGMENTS: usize = 64;
const MAX_RUN: usize = 65_000;
/// Time before the window.
const WARM_UP: Duration = Duration::from_millis(500);
/// Receivers end when nothing came for so long.
const SILENCE: Duration = Duration::from_millis(700);
/// Receivers wait so long for the first packet.
const PATIENCE: Duration = Duration::from_secs(10);
/// Every so many packets one is decrypted.
const SAMPLE: u64 = 64;

/// Where and what to send.
#[derive(Debug, Clone, Args)]
pub(crate) struct FloorArgs {
    /// Name of the workload.
    #[arg(long)]
    pub(crate) workload: String,
    /// Its size.
    #[arg(long)]
    pub(crate) size: usize,
    /// Address of the receivers.
    #[arg(long)]
    pub(crate) address: Ipv4Addr,
    /// Length of the window.
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Let the kernel split at the receiver what is sent at once.
    #[arg(long)]
    pub(crate) no_gro: bool,
}

/// What the sender did.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct FloorReport {
    /// Packets in the window, and its CPU time in microseconds.
    pub(crate) packets: u64,
    pub(crate) cpu_us: f64,
    /// Packets in all.
    pub(crate) sent: u64,
}

/// What the receivers got.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct SinkReport {
    pub(crate) received: u64,
    pub(crate) sampled: u64,
    pub(crate) forged: u64,
}

/// The key of the traffic to one receiver.
fn key(receiver: usize) -> [u8; 16] {
    let mut key = [0x5A; 16];
    key[..8].copy_from_slice(&(receiver as u64).to_be_bytes());
    key
}

const SALT: [u8; 12] = [0xA5; 12];

/// Sends in real time; prints nothing.
pub(crate) fn send(args: &FloorArgs) -> Result<FloorReport> {
    let workload = workload::named(&args.workload).context("no such workload")?;
    let scenario = workload.scenario(args.size);
    let keys: Vec<Outbound> = (0..scenario.participants.len())
        .map(|receiver| Outbound::new(PROFILE, &key(receiver), &SALT))
        .collect();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket::prepare_sender(&socket)?;
    let mut sender = Sender { socket, address: args.address, keys, run: Vec::new(), sent: 0 };
    let mut flows: Vec<Sealing> =
        scenario.flows().into_iter().enumerate().map(Sealing::new).collect();
    let begin = Instant::now();
    let mut due: BinaryHeap<_> =
        (0..flows.len()).map(|index| Reverse((flows[index].first(begin), index))).collect();
    let (window, end) = (begin + WARM_UP, begin + WARM_UP + Duration::from_secs_f64(args.seconds));
    let mut at_window = None;
    while let Some(Reverse((at, index))) = due.pop() {
        if at >= window && at_window.is_none() {
            at_window = Some((Usage::of(std::process::id())?, sender.sent));
        }
        if at >= end {
            break;
        }
        thread::sleep(at.saturating_duration_since(Instant::now()));
        flows[index].send_frame(&mut sender)?;
        due.push(Reverse((at + flows[index].encoder.interval(), index)));
    }
    let (usage, before) = at_window.context("the window is not empty")?;
    Ok(FloorReport {
        packets: sender.sent - before,
        cpu_us: Usage::of(std::process::id())?.cpu_us - usage.cpu_us,
        sent: sender.sent,
    })
}

/// The socket, the keys, and a buffer.
struct Sender {
    socket: UdpSocket,
    address: Ipv4Addr,
    keys: Vec<Outbound>,
    run: Vec<u8>,
    sent: u64,
}

/// A flow and where it is.
struct Sealing {
    flow: Flow,
    encoder: Encoder,
    ssrc: u32,
    index: u64,
}

impl Sealing {
    fn new((number, flow): (usize, Flow)) -> Self {
        let encoder = Encoder::new(flow.spec, number as u64);
        Self { flow, encoder, ssrc: number as u32 + 1, index: 1 }
    }

    fn first(&self, begin: Instant) -> Instant {
        begin + self.encoder.interval().mul_f64((f64::from(self.ssrc) * 0.618_034).fract())
    }

    /// Packets of the next frame before protection, and the length of their headers.
    fn packets(&mut self) -> (Vec<Vec<u8>>, usize) {
        let mut header_length = 0;
        let mut packets = Vec::new();
        for (number, payload) in self.encoder.encode().into_iter().enumerate() {
            let fields = HeaderFields {
                marker: false,
                payload_type: 96,
                sequence: (self.index + number as u64) as u16,
                timestamp: 0,
                ssrc: self.ssrc,
            };
            let mut packet = Vec::with_capacity(1300);
            // As large as what is sent to subscribers: mid and transport-wide number.
            header_length = write_header(&mut packet, fields, &[(1, b"1"), (4, &[0, 0])]);
            packet.extend_from_slice(&payload);
            packets.push(packet);
        }
        align(&mut packets);
        (packets, header_length)
    }

    fn send_frame(&mut self, sender: &mut Sender) -> Result<()> {
        let (packets, header_length) = self.packets();
        let overhead = PROFILE.rtp_overhead();
        for &receiver in &self.flow.to {
            let port = FIRST_PORT + u16::try_from(receiver)?;
            let to = SocketAddrV4::new(sender.address, port);
            let (mut segment, mut segments) = (0, 0);
            for (number, packet) in packets.iter().enumerate() {
                let length = packet.len() + overhead;
                let fits = length == segment
                    && segments < MAX_SEGMENTS
                    && sender.run.len() + length <= MAX_RUN;
                if !fits {
                    sender.flush(to, segment)?;
                    (segment, segments) = (length, 0);
                }
                segments += 1;
                let start = sender.run.len();
                sender.run.extend_from_slice(packet);
                let index = self.index + number as u64;
                let keys = &sender.keys[receiver];
                keys.protect_rtp(&mut sender.run, start, header_length, self.ssrc, index)?;
            }
            sender.flush(to, segment)?;
            sender.sent += packets.len() as u64;
        }
        self.index += packets.len() as u64;
        Ok(())
    }
}

/// Pads packets of a frame that differ by little, so that they leave in one run; the last one may
/// be shorter.
fn align(packets: &mut [Vec<u8>]) {
    let [first, middle @ .., _] = packets else { return };
    for packet in middle {
        let missing = first.len().saturating_sub(packet.len());
        if (1..=packet.len() / 16).contains(&missing) {
            packet.resize(first.len() - 1, 0);
            packet.push(missing as u8);
            // The padding bit of the header.
            packet[0] |= 0x20;
        }
    }
}

impl Sender {
    fn flush(&mut self, to: SocketAddrV4, segment: usize) -> Result<()> {
        if !self.run.is_empty() {
            socket::send_segments(&self.socket, to, &self.run, u16::try_from(segment)?)?;
            self.run.clear();
        }
        Ok(())
    }
}

/// Receives what [`send`] sends; calls `ready` when all sockets are open.
pub(crate) fn receive(args: &FloorArgs, ready: impl FnOnce()) -> Result<SinkReport> {
    let workload = workload::named(&args.workload).context("no such workload")?;
    let count = workload.scenario(args.size).participants.len();
    let mut poll = Poll::new()?;
    let mut sockets = Vec::new();
    for receiver in 0..count {
        let port = FIRST_PORT + u16::try_from(receiver)?;
        let socket = UdpSocket::bind((args.address, port))?;
        socket::prepare(&socket, !args.no_gro)?;
        let fd = socket.as_raw_fd();
        poll.registry().register(&mut SourceFd(&fd), Token(receiver), Interest::READABLE)?;
        sockets.push((socket, Inbound::new(PROFILE, &key(receiver), &SALT)));
    }
    ready();
    let mut report = SinkReport::default();
    let mut buffer = vec![0; socket::MAX_COALESCED];
    // To be woken is a part of what sending costs: the receivers wait as those of the load do.
    let mut events = Events::with_capacity(1024);
    loop {
        let patience = if report.received == 0 { PATIENCE } else { SILENCE };
        poll.poll(&mut events, Some(patience))?;
        if events.is_empty() {
            return Ok(report);
        }
        for event in &events {
            let (socket, inbound) = &mut sockets[event.token().0];
            drain(socket, inbound, &mut buffer, &mut report)?;
        }
    }
}

fn drain(
    socket: &UdpSocket,
    inbound: &mut Inbound,
    buffer: &mut [u8],
    report: &mut SinkReport,
) -> Result<()> {
    while let Some(received) = socket::receive(socket, buffer)? {
        for packet in buffer[..received.length].chunks_mut(received.segment) {
            if report.received.is_multiple_of(SAMPLE) {
                report.sampled += 1;
                let header = RtpHeader::parse(packet).context("the floor sends RTP")?;
                let opened = inbound.unprotect_rtp(packet, header.header_length);
                report.forged += u64::from(opened.is_err());
            }
            report.received += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_the_floor_sends_arrives_and_decrypts() {
        // An address of the test's own: the ports are fixed.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let args = FloorArgs {
            workload: "meeting-20".to_owned(),
            size: 4,
            address: Ipv4Addr::new(127, 77, high, low.max(1)),
            seconds: 0.5,
            no_gro: false,
        };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let receiving = args.clone();
        let sink =
            thread::spawn(move || receive(&receiving, move || ready.send(()).unwrap()).unwrap());
        is_ready.recv().unwrap();
        let floor = send(&args).unwrap();
        let sink = sink.join().unwrap();
        assert_eq!(sink.received, floor.sent);
        assert!(floor.packets > 0 && floor.packets < floor.sent);
        assert!(sink.sampled > 0);
        assert_eq!(sink.forged, 0);
    }
}
