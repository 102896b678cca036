//! Do TURN clients that others wrote get their data through by every transport?

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result};
use e2e::clients::python::aioice_program;
use e2e::process::Run as _;
use e2e::tools::{TURN_CLIENT, Toolchain};
use e2e::turn_server::{TurnServer, USER};

const PORT: u16 = 18_190;

#[test]
fn aioice_and_pion_relay_over_udp_tcp_and_tls() -> Result<()> {
    let pion = TURN_CLIENT.build(&Toolchain::find()?)?.join(TURN_CLIENT.name);
    let server = TurnServer::start(PORT)?;
    let peer = echo()?;
    for transport in ["udp", "tcp", "tls"] {
        for (name, client) in [("aioice", aioice_program()?), ("pion", Command::new(&pion))] {
            relays(client, &server, transport, peer)
                .with_context(|| format!("{name} over {transport}; {}", server.log()))?;
        }
    }
    Ok(())
}

/// Either client ends with an error unless its messages come back.
fn relays(
    mut client: Command,
    server: &TurnServer,
    transport: &str,
    peer: SocketAddr,
) -> Result<()> {
    let listener = if transport == "tls" { server.secure } else { server.plain };
    let (user, password) = USER;
    client.args(["--transport", transport, "--server", &listener.to_string()]);
    client.args(["--user", user, "--password", password, "--peer", &peer.to_string()]);
    client.arg("--authority").arg(&server.certificate).run()
}

/// A peer that returns what it gets, for the life of the test.
fn echo() -> Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // Who is gone gets no answer.
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    Ok(address)
}
