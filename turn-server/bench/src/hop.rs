//! The hop from a relay to the media node in the same pod, apart from everything else: what a packet
//! costs both sides together, by the ways that could carry it.
//!
//! Sender and receiver are two threads, as the two programs are two processes: a ring in memory that
//! both map, and its wake-up, cost the same.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::Args;
use mio::{Events, Interest, Poll, Token, Waker};
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use turn_server::udp::{self, Destination, Memory, Purpose, Receiver, Segment, Sender};

use crate::report::{DELIVERED, median};

/// Packets that are ready at once: sound, a frame, a key frame.
const BURSTS: [usize; 3] = [1, 8, 32];
/// Packets a second, those of the workload `video` in one direction.
const RATE: f64 = 4000.0;
/// Bytes of a packet.
const PAYLOAD: usize = 1000;
/// Bytes of the ring: a second's packets.
const RING: usize = 4 << 20;
/// How far a sender that was kept from running lags behind.
const MAX_LATE: Duration = Duration::from_millis(20);
const WAKE: Token = Token(0);

/// How the parts are measured.
#[derive(Debug, Clone, Args)]
pub(crate) struct HopArgs {
    /// Length of a window.
    #[arg(long)]
    seconds: f64,
    /// Rounds, of which the median counts.
    #[arg(long)]
    runs: usize,
}

/// Microseconds of CPU for a packet, sender and receiver together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct HopCost {
    /// Packets of a burst.
    pub(crate) packets: usize,
    /// A system call for each packet and side.
    pub(crate) single: f64,
    /// Segmented sending and coalesced receiving: what the programs do.
    pub(crate) runs: f64,
    /// A ring in shared memory, and one wake-up a burst.
    pub(crate) ring: f64,
    /// A copy within one program.
    pub(crate) copy: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing is sent: what keeping time costs the sender.
    Pace,
    Single,
    Runs,
    Ring,
    Copy,
}

impl Way {
    const ALL: [Self; 5] = [Self::Pace, Self::Single, Self::Runs, Self::Ring, Self::Copy];
}

/// Measures all ways with all bursts, one after the other in each round.
pub(crate) fn run(args: &HopArgs) -> Result<Vec<HopCost>> {
    let window = Duration::from_secs_f64(args.seconds);
    BURSTS
        .iter()
        .map(|&packets| {
            let mut costs = [const { Vec::new() }; Way::ALL.len()];
            for _ in 0..args.runs {
                for (way, costs) in Way::ALL.into_iter().zip(&mut costs) {
                    costs.push(measure(way, packets, window)?);
                }
            }
            let [pace, single, runs, ring, copy] = costs.map(median);
            let pace = pace.context("no round")?;
            let above = |cost: Option<f64>| cost.map_or(0.0, |cost| (cost - pace).max(0.0));
            Ok(HopCost {
                packets,
                single: above(single),
                runs: above(runs),
                ring: above(ring),
                copy: above(copy),
            })
        })
        .collect()
}

/// Microseconds of CPU for a packet, keeping time included.
fn measure(way: Way, packets: usize, window: Duration) -> Result<f64> {
    let poll = Poll::new()?;
    let (mut output, input) = link(way, packets, &poll)?;
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let receiver = thread::spawn(move || receive(input, poll, &over));
    let burst = vec![0x5A; packets * PAYLOAD];
    let interval = Duration::from_secs_f64(packets as f64 / RATE);
    let before = cpu_time();
    let (begin, mut sent) = (Instant::now(), 0);
    let mut due = begin;
    while begin.elapsed() < window {
        output.send(&burst, packets)?;
        sent += packets;
        due = (due + interval).max(Instant::now() - MAX_LATE);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let sender = cpu_time() - before;
    is_over.store(true, Ordering::Relaxed);
    let (received, cpu) = receiver.join().map_err(|_| anyhow!("the receiver ended"))??;
    let is_carried = matches!(way, Way::Single | Way::Runs | Way::Ring);
    let is_whole = received as f64 >= DELIVERED * sent as f64;
    ensure!(!is_carried || is_whole, "{received} of {sent} packets came by {way:?}: too busy");
    Ok((sender + cpu).as_secs_f64() * 1e6 / sent as f64)
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

enum Output {
    Nothing,
    Single(mio::net::UdpSocket, SocketAddr),
    Runs(mio::net::UdpSocket, SocketAddr, Box<Sender>),
    Ring(Producer<u8>, Waker),
    Copy(Vec<u8>),
}

enum Input {
    Nothing,
    Single(mio::net::UdpSocket),
    Runs(mio::net::UdpSocket),
    Ring(Consumer<u8>),
}

fn link(way: Way, packets: usize, poll: &Poll) -> Result<(Output, Input)> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(match way {
        Way::Pace => (Output::Nothing, Input::Nothing),
        Way::Single => {
            let mut socket = udp::bind(local, Purpose::Listener)?;
            poll.registry().register(&mut socket, WAKE, Interest::READABLE)?;
            let address = socket.local_addr()?;
            (Output::Single(udp::bind(local, Purpose::Relay)?, address), Input::Single(socket))
        }
        Way::Runs => {
            let mut socket = udp::bind(local, Purpose::Listener)?;
            poll.registry().register(&mut socket, WAKE, Interest::READABLE)?;
            let address = socket.local_addr()?;
            let output = Output::Runs(udp::bind(local, Purpose::Relay)?, address, Box::default());
            (output, Input::Runs(socket))
        }
        Way::Ring => {
            let (producer, consumer) = RingBuffer::new(RING);
            let waker = Waker::new(poll.registry(), WAKE)?;
            (Output::Ring(producer, waker), Input::Ring(consumer))
        }
        Way::Copy => (Output::Copy(vec![0; packets * PAYLOAD]), Input::Nothing),
    })
}

impl Output {
    fn send(&mut self, burst: &[u8], packets: usize) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Single(socket, to) => {
                for packet in burst.chunks(PAYLOAD) {
                    socket.send_to(packet, *to)?;
                }
            }
            Self::Runs(socket, to, sender) => {
                let segment = |index| Segment::plain(index * PAYLOAD..(index + 1) * PAYLOAD);
                let run: Vec<_> = (0..packets).map(segment).collect();
                let destination = Destination { to: *to, from: None, tos: 0 };
                let memory = Memory { arena: burst, headers: &[] };
                sender.send_run(socket, destination, &run, memory)?;
            }
            Self::Ring(producer, waker) => {
                // What has no room is missing at the receiver.
                let has_room = producer.slots() >= packets * (2 + PAYLOAD);
                for packet in burst.chunks(PAYLOAD).filter(|_| has_room) {
                    producer.push_entire_slice(&(packet.len() as u16).to_be_bytes())?;
                    producer.push_entire_slice(packet)?;
                }
                waker.wake()?;
            }
            Self::Copy(arena) => black_box(arena).copy_from_slice(burst),
        }
        Ok(())
    }
}

/// Sleeps until something comes, as a worker does; counts packets until it is over.
fn receive(mut input: Input, mut poll: Poll, is_over: &AtomicBool) -> Result<(usize, Duration)> {
    let mut receiver = Receiver::new(16);
    let before = cpu_time();
    let mut events = Events::with_capacity(8);
    let mut count = 0;
    let mut arena = vec![0; 65_536];
    loop {
        // What was sent before it was over is there by now.
        let is_last = is_over.load(Ordering::Relaxed);
        poll.poll(&mut events, Some(Duration::from_millis(if is_last { 0 } else { 200 })))?;
        count += match &mut input {
            Input::Nothing => 0,
            Input::Single(socket) => {
                std::iter::from_fn(|| socket.recv_from(&mut arena).ok()).count()
            }
            Input::Runs(socket) => take_runs(socket, &mut receiver)?,
            Input::Ring(consumer) => {
                let mut length = [0; 2];
                let mut packets = 0;
                // Both parts of a packet are there, or its sender is about to wake us again.
                while consumer.slots() >= 2 + PAYLOAD {
                    consumer.pop_entire_slice(&mut length)?;
                    let length = usize::from(u16::from_be_bytes(length));
                    consumer.pop_entire_slice(&mut arena[..length])?;
                    packets += 1;
                }
                packets
            }
        };
        if is_last {
            return Ok((count, cpu_time() - before));
        }
    }
}

fn take_runs(socket: &mio::net::UdpSocket, receiver: &mut Receiver) -> Result<usize> {
    let mut count = 0;
    loop {
        let groups = receiver.receive(socket)?;
        let datagrams = (0..groups).filter_map(|index| receiver.datagrams(index));
        count += datagrams.map(|datagrams| datagrams.ranges().count()).sum::<usize>();
        if groups < receiver.slots() {
            return Ok(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_carries_every_packet() {
        for way in Way::ALL {
            measure(way, 8, Duration::from_millis(20)).unwrap();
        }
    }
}
