//! What forwarding costs by stage: taking protection off, rewriting header and payload descriptor,
//! protecting, sending, and the engine from a publisher's datagrams to runs for the socket. What
//! sending costs where somebody receives is measured by `forwarding-bench`.

mod forwarding {
    pub(crate) mod room;
}

use std::hint::black_box;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quinn_udp::{Transmit, UdpSocketState};
use sfu_core::media::codec::Vp8Descriptor;
use sfu_core::media::rtp::{HeaderFields, RtpHeader, write_header};
use sfu_core::media::srtp::{Inbound, Outbound, SrtpProfile};

use forwarding::room::{FRAME_PACKETS, Room};

/// Payload of a video packet.
const PAYLOAD: [u8; 1100] = [0x55; 1100];
const KEY: [u8; 16] = [7; 16];
const SALT: [u8; 14] = [9; 14];
const PROFILES: [(&str, SrtpProfile, usize); 2] = [
    ("AEAD_AES_128_GCM", SrtpProfile::AeadAes128Gcm, 12),
    ("AES128_CM_SHA1_80", SrtpProfile::Aes128CmSha1_80, 14),
];

fn fields(sequence: u16) -> HeaderFields {
    HeaderFields { marker: false, payload_type: 96, sequence, timestamp: 0, ssrc: 1 }
}

/// A plain packet with the extensions that subscribers get, and the length of its header.
fn packet(sequence: u16) -> (Vec<u8>, usize) {
    let mut packet = Vec::with_capacity(1300);
    let header_length =
        write_header(&mut packet, fields(sequence), &[(1, b"1"), (4, &sequence.to_be_bytes())]);
    packet.extend_from_slice(&PAYLOAD);
    (packet, header_length)
}

fn stages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet");
    group.throughput(Throughput::Elements(1));
    group.bench_function("header", |bencher| {
        let mut out = Vec::with_capacity(1300);
        bencher.iter(|| {
            out.clear();
            write_header(&mut out, black_box(fields(7)), &[(1, b"1"), (4, &[0, 7])])
        });
    });
    group.bench_function("rewrite", |bencher| {
        // Key frame of VP8 with picture id, `TL0PICIDX` and temporal layer.
        let mut payload = vec![0x90, 0xE0, 0x81, 0x02, 9, 0x20, 0x10];
        payload.resize(PAYLOAD.len(), 0x55);
        let mut out = Vec::with_capacity(1300);
        bencher.iter(|| {
            out.clear();
            let length = write_header(&mut out, black_box(fields(7)), &[(4, &[0, 7])]);
            out.extend_from_slice(black_box(&payload));
            Vp8Descriptor::parse(&payload).map(|vp8| vp8.rewrite(&mut out[length..], 0x234, 10))
        });
    });
    for (name, profile, salt) in PROFILES {
        let outbound = Outbound::new(profile, &KEY, &SALT[..salt]);
        group.bench_function(format!("protect/{name}"), |bencher| {
            let (plain, header_length) = packet(1);
            let mut buffer = Vec::with_capacity(1300);
            let mut index = 0;
            bencher.iter(|| {
                buffer.clear();
                buffer.extend_from_slice(&plain);
                index += 1;
                outbound.protect_rtp(&mut buffer, 0, header_length, 1, index)
            });
        });
        group.bench_function(format!("unprotect/{name}"), |bencher| {
            let mut inbound = Inbound::new(profile, &KEY, &SALT[..salt]);
            let mut index = 0_u64;
            let next = || {
                index += 1;
                let (mut bytes, header_length) = packet(index as u16);
                outbound
                    .protect_rtp(&mut bytes, 0, header_length, 1, index)
                    .expect("indices do not run out");
                bytes
            };
            let open = |mut bytes: Vec<u8>| {
                let header = RtpHeader::parse(&bytes).expect("it was written so");
                inbound.unprotect_rtp(&mut bytes, header.header_length).expect("it is authentic")
            };
            bencher.iter_batched(next, open, BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// Runs of datagrams to a socket that nobody reads: copying and the network stack, without a
/// receiver that wakes up.
fn send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send");
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let (from, to) = (bind(), bind());
    let destination = to.local_addr().expect("it is bound");
    let state = UdpSocketState::new((&from).into()).expect("a socket of this system");
    for segments in [1, 2, 5, 16] {
        let run = vec![0x55; segments * 1128];
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: &run,
            segment_size: Some(1128),
            src_ip: None,
        };
        group.throughput(Throughput::Elements(segments as u64));
        group.bench_function(format!("run of {segments}"), |bencher| {
            bencher.iter(|| state.try_send((&from).into(), black_box(&transmit)));
        });
    }
    group.finish();
}

/// Whole frames of five packets; the time is that of one forwarded packet.
fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for subscribers in [1, 10, 60, 500] {
        let forwarded = subscribers * FRAME_PACKETS;
        group.throughput(Throughput::Elements(forwarded as u64));
        group.bench_function(format!("frame to {subscribers}"), |bencher| {
            let mut room = Room::new(subscribers);
            bencher.iter_custom(|frames| {
                let mut spent = Duration::ZERO;
                for _ in 0..frames {
                    let mut frame = room.next_frame();
                    let (elapsed, sent) = timed(|| room.forward(&mut frame));
                    assert_eq!(
                        sent,
                        forwarded,
                        "every packet goes to every subscriber: {:?}",
                        room.counters()
                    );
                    spent += elapsed;
                }
                spent
            });
        });
    }
    group.finish();
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

criterion_group!(benches, stages, send, engine);
criterion_main!(benches);
