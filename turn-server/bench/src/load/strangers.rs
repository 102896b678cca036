//! Allocates without credentials, each from another port.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use e2e::bench::{STRANGERS, Usage};
use serde::{Deserialize, Serialize};

use crate::runner::PORT;
use crate::stun::Request;

/// The first ones fill buffers that stay.
const FIRST: u32 = 10_000;
/// Ports of an address.
const PORTS: u32 = 60_000;
/// One in so many waits for its answer, so that the server is not outrun.
const WAITING: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(5);

/// Who asks whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct StrangersArgs {
    /// How many.
    #[arg(long)]
    count: u32,
    /// The server's address.
    #[arg(long)]
    server: Ipv4Addr,
    /// The server's process.
    #[arg(long)]
    server_pid: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct StrangersReport {
    pub(crate) count: u32,
    /// Of those that waited, how many got their answer.
    pub(crate) waited: u32,
    pub(crate) answered: u32,
    /// Bytes by which the server's resident memory grew.
    pub(crate) growth: u64,
}

/// Asks from every port once.
pub(crate) fn run(args: &StrangersArgs) -> Result<StrangersReport> {
    let request = Request::allocate(rand::random()).bytes();
    let mut report = StrangersReport { count: args.count, ..StrangersReport::default() };
    let mut before = 0;
    for stranger in 0..FIRST + args.count {
        if stranger == FIRST {
            before = Usage::of(args.server_pid)?.memory;
        }
        let [_, _, high, low] = (stranger / PORTS).to_be_bytes();
        let [a, b, ..] = STRANGERS.octets();
        let port = u16::try_from(1024 + stranger % PORTS)?;
        let socket = UdpSocket::bind((Ipv4Addr::new(a, b, high, low), port))?;
        socket.send_to(&request, (args.server, PORT))?;
        if stranger % WAITING == 0 && stranger >= FIRST {
            socket.set_read_timeout(Some(PATIENCE))?;
            report.waited += 1;
            report.answered += u32::from(socket.recv(&mut [0; 512]).is_ok());
        }
    }
    report.growth = Usage::of(args.server_pid)?.memory.saturating_sub(before);
    Ok(report)
}
