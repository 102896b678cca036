//! Clients and their peer, in one thread: each client sends its bursts in time, the peer returns
//! what it gets, and everything is counted where it arrives.

mod client;
pub(crate) mod flood;
pub(crate) mod strangers;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use turn_server::udp::{self, Destination, Memory, Receiver, Segment, Sender};

use crate::workload::{self, Workload};
use client::Client;
use e2e::bench::Usage;

/// Time before the window, in which caches and sockets settle.
const WARM_UP: Duration = Duration::from_millis(1000);
/// Time after the window for what is on its way.
const TAIL: Duration = Duration::from_millis(500);
/// The peer's port.
pub(crate) const PEER_PORT: u16 = 4000;
/// Token of the peer; clients have theirs before it.
const PEER: usize = usize::MAX - 1;
/// Receive calls in a row.
const MAX_RECEIVES: usize = 64;

/// Whom to load, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Name of the workload.
    #[arg(long)]
    workload: String,
    /// Clients.
    #[arg(long)]
    clients: usize,
    /// The server's address.
    #[arg(long)]
    server: Ipv4Addr,
    /// The address of clients and peer.
    #[arg(long)]
    address: Ipv4Addr,
    /// The server's process.
    #[arg(long)]
    server_pid: u32,
    /// Length of the window.
    #[arg(long)]
    seconds: f64,
    /// Send without allocations, to a server that only copies.
    #[arg(long)]
    raw: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LoadReport {
    pub(crate) clients: usize,
    /// Packets relayed within the window: arrivals at the peer and at clients.
    pub(crate) relayed: u64,
    /// The server's CPU time in the window, microseconds.
    pub(crate) cpu_us: f64,
    /// Packets offered in all, and arrivals at the peer and at clients in all.
    pub(crate) offered: u64,
    pub(crate) at_peer: u64,
    pub(crate) at_clients: u64,
    /// Packets offered of those that were due.
    pub(crate) paced: f64,
    /// Round trip, microseconds.
    pub(crate) latency_p50_us: u64,
    pub(crate) latency_p99_us: u64,
    /// The server's resident memory before the allocations and after the window, bytes.
    pub(crate) memory_before: u64,
    pub(crate) memory_after: u64,
    /// What an allocation with its channel took of it, of the second half of the clients: the first
    /// fill what stays.
    pub(crate) bytes_per_allocation: f64,
}

impl LoadReport {
    /// The smaller share of both directions that arrived.
    pub(crate) fn delivered(&self) -> f64 {
        let to_peer = self.at_peer as f64 / self.offered.max(1) as f64;
        let back = self.at_clients as f64 / self.at_peer.max(1) as f64;
        (to_peer * back).min(to_peer)
    }

    /// Microseconds of server CPU for a relayed packet.
    pub(crate) fn cost(&self) -> f64 {
        self.cpu_us / self.relayed.max(1) as f64
    }
}

/// Round trips in steps of 16 µs up to a second.
struct Latencies(Vec<u32>);

impl Latencies {
    const STEP: u64 = 16;

    fn new() -> Self {
        Self(vec![0; 65_536])
    }

    fn add(&mut self, micros: u64) {
        let last = self.0.len() - 1;
        self.0[((micros / Self::STEP) as usize).min(last)] += 1;
    }

    fn percentile(&self, share: f64) -> u64 {
        let total: u64 = self.0.iter().map(|count| u64::from(*count)).sum();
        let wanted = (total as f64 * share) as u64;
        let mut seen = 0;
        for (index, count) in self.0.iter().enumerate() {
            seen += u64::from(*count);
            if seen > wanted {
                return index as u64 * Self::STEP;
            }
        }
        0
    }
}

struct Load {
    workload: Workload,
    poll: Poll,
    peer: mio::net::UdpSocket,
    clients: Vec<Client>,
    receiver: Receiver,
    sender: Sender,
    begin: Instant,
    offered: u64,
    at_peer: u64,
    at_clients: u64,
    latencies: Latencies,
    bytes_per_allocation: f64,
}

/// Runs a workload against a server.
pub(crate) fn run(args: &LoadArgs) -> Result<LoadReport> {
    let mut workload = *workload::named(&args.workload).context("no such workload")?;
    workload.clients = args.clients;
    let memory_before = Usage::of(args.server_pid)?.memory;
    let mut load = Load::prepare(args, workload)?;
    let (relayed, usage, paced) = load.measure(args)?;
    Ok(LoadReport {
        clients: workload.clients,
        relayed,
        cpu_us: usage,
        offered: load.offered,
        at_peer: load.at_peer,
        at_clients: load.at_clients,
        paced,
        latency_p50_us: load.latencies.percentile(0.5),
        latency_p99_us: load.latencies.percentile(0.99),
        memory_before,
        bytes_per_allocation: load.bytes_per_allocation,
        memory_after: Usage::of(args.server_pid)?.memory,
    })
}

impl Load {
    fn prepare(args: &LoadArgs, workload: Workload) -> Result<Self> {
        let poll = Poll::new()?;
        let peer_address = SocketAddrV4::new(args.address, PEER_PORT);
        let mut peer = udp::bind(peer_address.into(), udp::Purpose::Listener)?;
        poll.registry().register(&mut peer, Token(PEER), Interest::READABLE)?;
        let mut clients = Vec::new();
        let half = workload.clients / 2;
        let mut memory_of_half = 0;
        for index in 0..workload.clients {
            let mut client = Client::open(args.server, args.address, &workload, args.raw)
                .with_context(|| format!("opening client {index}"))?;
            if !args.raw {
                client.allocate(peer_address).with_context(|| format!("client {index}"))?;
            }
            if index == half {
                memory_of_half = Usage::of(args.server_pid)?.memory;
            }
            client.register(poll.registry(), Token(index))?;
            clients.push(client);
        }
        let taken = Usage::of(args.server_pid)?.memory.saturating_sub(memory_of_half);
        let counted = (workload.clients - half).saturating_sub(1).max(1);
        Ok(Self {
            bytes_per_allocation: taken as f64 / counted as f64,
            workload,
            poll,
            peer,
            clients,
            receiver: Receiver::new(8),
            sender: Sender::default(),
            begin: Instant::now(),
            offered: 0,
            at_peer: 0,
            at_clients: 0,
            latencies: Latencies::new(),
        })
    }

    /// Sends for the given time; gives what was relayed in the window, the server's CPU time for
    /// it, and the share of the due packets that were offered.
    fn measure(&mut self, args: &LoadArgs) -> Result<(u64, f64, f64)> {
        self.begin = Instant::now();
        let window = self.begin + WARM_UP;
        let end = window + Duration::from_secs_f64(args.seconds);
        let count = self.clients.len() as u32;
        let mut due: Vec<Instant> =
            (0..count).map(|index| self.begin + self.workload.interval * index / count).collect();
        let mut next = 0;
        let mut before = None;
        let mut events = Events::with_capacity(2048);
        loop {
            let now = Instant::now();
            if now >= window && before.is_none() {
                before = Some((Usage::of(args.server_pid)?.cpu_us, self.at_peer + self.at_clients));
                self.latencies = Latencies::new();
            }
            if now >= end {
                break;
            }
            while due[next] <= now {
                self.send_burst(next)?;
                due[next] += self.workload.interval;
                next = (next + 1) % due.len();
            }
            self.receive(&mut events, due[next].saturating_duration_since(Instant::now()))?;
        }
        let (cpu, relayed) = before.context("the window is not empty")?;
        let relayed = self.at_peer + self.at_clients - relayed;
        let cpu = Usage::of(args.server_pid)?.cpu_us - cpu;
        let wanted = self.begin.elapsed().as_secs_f64() / self.workload.interval.as_secs_f64()
            * f64::from(count)
            * self.workload.burst as f64;
        let paced = self.offered as f64 / wanted;
        let tail = Instant::now() + TAIL;
        while Instant::now() < tail {
            self.receive(&mut events, Duration::from_millis(10))?;
        }
        Ok((relayed, cpu, paced))
    }

    fn send_burst(&mut self, index: usize) -> Result<()> {
        let micros = self.begin.elapsed().as_micros() as u64;
        self.offered += self.clients[index].send_burst(&mut self.sender, micros)?;
        Ok(())
    }

    fn receive(&mut self, events: &mut Events, wait: Duration) -> Result<()> {
        // epoll counts milliseconds upwards: a shorter wait ends in looking around at once.
        let wait = if wait < Duration::from_millis(1) { Duration::ZERO } else { wait };
        self.poll.poll(events, Some(wait))?;
        for event in &*events {
            match event.token() {
                Token(PEER) => self.echo()?,
                Token(index) => {
                    let micros = self.begin.elapsed().as_micros() as u64;
                    let latencies = &mut self.latencies;
                    self.at_clients += self.clients[index].receive(&mut self.receiver, |sent| {
                        latencies.add(micros.saturating_sub(sent))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The peer returns what it got, as it got it.
    fn echo(&mut self) -> Result<()> {
        for _ in 0..MAX_RECEIVES {
            let groups = self.receiver.receive(&self.peer)?;
            for index in 0..groups {
                let Some(datagrams) = self.receiver.datagrams(index) else { continue };
                let run: Vec<Segment> = datagrams.ranges().map(Segment::plain).collect();
                self.at_peer += run.len() as u64;
                let to: SocketAddr = datagrams.from;
                let destination = Destination { to, from: None, tos: 0 };
                // What the kernel does not take is missing at the client.
                let memory = Memory { arena: self.receiver.arena(), headers: &[] };
                let _sent = self.sender.send_run(&self.peer, destination, &run, memory);
            }
            if groups < self.receiver.slots() {
                break;
            }
        }
        Ok(())
    }
}
