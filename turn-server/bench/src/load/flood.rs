//! A client that sends as much as it can, to a peer of its own.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use turn_server::udp::{self, Receiver, Sender};

use super::client::Client;
use crate::workload::FLOOD;

/// The flooder's peer, which answers nothing.
const PEER_PORT: u16 = 4001;

/// Whom to flood.
#[derive(Debug, Clone, Args)]
pub(crate) struct FloodArgs {
    /// The server's address.
    #[arg(long)]
    server: Ipv4Addr,
    /// The address of client and peer.
    #[arg(long)]
    address: Ipv4Addr,
}

/// Floods until it is ended; `begun` is called when the allocation is there.
pub(crate) fn run(args: &FloodArgs, begun: impl FnOnce()) -> Result<()> {
    let address = SocketAddrV4::new(args.address, PEER_PORT);
    let peer = udp::bind(address.into(), udp::Purpose::Relay)?;
    let mut client = Client::open(args.server, args.address, &FLOOD, false)?;
    client.allocate(address)?;
    begun();
    let (mut sender, mut receiver) = (Sender::default(), Receiver::new(8));
    let mut due = Instant::now();
    loop {
        client.send_burst(&mut sender, 0)?;
        while receiver.receive(&peer)? == receiver.slots() {}
        due = (due + FLOOD.interval).max(Instant::now() - Duration::from_millis(10));
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
