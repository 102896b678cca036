//! The least that a relay can cost: what clients send is copied to the peer from a socket for
//! each client, and back, with coalesced receiving and segmented sending. No protocol, no checks.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use clap::Args;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Registry, Token};
use rustc_hash::FxHashMap;
use turn_server::udp::{self, Destination, Memory, Receiver, Segment, Sender};

use crate::load::PEER_PORT;
use crate::runner::PORT;

const LISTENER: Token = Token(usize::MAX - 1);
/// Receive calls in a row.
const MAX_RECEIVES: usize = 16;

/// Where to copy.
#[derive(Debug, Clone, Args)]
pub(crate) struct FloorArgs {
    /// Our address.
    #[arg(long)]
    address: Ipv4Addr,
    /// The peer's address.
    #[arg(long)]
    peer: Ipv4Addr,
}

struct Floor {
    registry: Registry,
    listener: UdpSocket,
    address: Ipv4Addr,
    peer: SocketAddr,
    /// Sockets towards the peer, and whose they are.
    relays: Vec<(UdpSocket, SocketAddr)>,
    by_client: FxHashMap<SocketAddr, usize>,
    receiver: Receiver,
    sender: Sender,
    run: Vec<Segment>,
}

/// Copies until it is ended.
pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = udp::bind((args.address, PORT).into(), udp::Purpose::Listener)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut floor = Floor {
        registry: poll.registry().try_clone()?,
        listener,
        address: args.address,
        peer: (args.peer, PEER_PORT).into(),
        relays: Vec::new(),
        by_client: FxHashMap::default(),
        receiver: Receiver::new(16),
        sender: Sender::default(),
        run: Vec::new(),
    };
    let mut events = Events::with_capacity(256);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                LISTENER => floor.pass_to_peer()?,
                Token(relay) => floor.pass_to_client(relay)?,
            }
        }
    }
}

impl Floor {
    fn pass_to_peer(&mut self) -> Result<()> {
        for _ in 0..MAX_RECEIVES {
            let groups = self.receiver.receive(&self.listener)?;
            for index in 0..groups {
                let Some(datagrams) = self.receiver.datagrams(index) else { continue };
                let relay = match self.by_client.get(&datagrams.from) {
                    Some(relay) => *relay,
                    None => self.open(datagrams.from)?,
                };
                self.copy(datagrams.ranges(), Some(relay), self.peer);
            }
            if groups < self.receiver.slots() {
                break;
            }
        }
        Ok(())
    }

    fn pass_to_client(&mut self, relay: usize) -> Result<()> {
        for _ in 0..MAX_RECEIVES {
            let groups = self.receiver.receive(&self.relays[relay].0)?;
            for index in 0..groups {
                let Some(datagrams) = self.receiver.datagrams(index) else { continue };
                self.copy(datagrams.ranges(), None, self.relays[relay].1);
            }
            if groups < self.receiver.slots() {
                break;
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        ranges: impl Iterator<Item = std::ops::Range<usize>>,
        relay: Option<usize>,
        to: SocketAddr,
    ) {
        self.run.clear();
        self.run.extend(ranges.map(Segment::plain));
        let socket = relay.map_or(&self.listener, |relay| &self.relays[relay].0);
        let destination = Destination { to, from: None, tos: 0 };
        // What the kernel does not take is missing where it is counted.
        let memory = Memory { arena: self.receiver.arena(), headers: &[] };
        let _sent = self.sender.send_run(socket, destination, &self.run, memory);
    }

    fn open(&mut self, client: SocketAddr) -> Result<usize> {
        let mut socket = udp::bind((self.address, 0).into(), udp::Purpose::Relay)?;
        let relay = self.relays.len();
        self.registry.register(&mut socket, Token(relay), Interest::READABLE)?;
        self.relays.push((socket, client));
        self.by_client.insert(client, relay);
        Ok(relay)
    }
}
