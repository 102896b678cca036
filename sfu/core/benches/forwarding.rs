//! What forwarding costs by stage: taking protection off, rewriting header and payload descriptor,
//! protecting, sending, and the engine from a publisher's datagrams to runs for the socket. What
//! sending costs where somebody receives is measured by `forwarding-bench`.

mod forwarding {
    pub(crate) mod room;
    pub(crate) mod stages;
}

use std::hint::black_box;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quinn_udp::{Transmit, UdpSocketState};
use sfu_core::media::rtp::write_header;

use forwarding::room::{FRAME_PACKETS, Room};
use forwarding::stages::{PROFILES, fields, protect, protected, rewrite, unprotect};

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
    group.bench_function("rewrite", |bencher| bencher.iter(rewrite()));
    for (name, profile) in PROFILES {
        group.bench_function(format!("protect/{name}"), |bencher| bencher.iter(protect(profile)));
        group.bench_function(format!("unprotect/{name}"), |bencher| {
            bencher.iter_batched(protected(profile), unprotect(profile), BatchSize::SmallInput);
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
