//! Clients that others wrote: coturn's tools (Debian package `coturn`) and the crate `turn`.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;

use contract::turn_config::{PeerRule, RelayAddressConfig};
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn as _;

use crate::client::Peer;
use crate::server::{PASSWORD, Server, USER};

/// With two channels, one start in sixteen is good: this many fail all once in 10²⁸ runs.
const MAX_STARTS: usize = 1000;

/// A server of both families whose clients may meet.
fn server() -> Server {
    Server::secure(|config, _| {
        let loopback = "::1".parse().unwrap();
        config.listen.udp.push("[::1]:0".parse().unwrap());
        config.relay.addresses.push(RelayAddressConfig { bind: loopback, advertise: None });
        config.peers.allow.push(PeerRule { network: "::1".parse().unwrap(), ports: None });
        config.peers.own_relays = true;
    })
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("timeout")
        .args(["30", program])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs coturn's client against a listener; every message has to come back. Older ones take any
/// channel from 0x4000 to 0x7fff, of which a quarter exists today (RFC 8656 section 12): one that
/// got another is started again. So is one that lost messages over TLS: it takes a record for a
/// message, and on a busy machine two may share one.
fn uclient(listener: SocketAddr, peer: SocketAddr, arguments: &[&str]) {
    let (port, peer_port) = (listener.port().to_string(), peer.port().to_string());
    let (peer_ip, host) = (peer.ip().to_string(), listener.ip().to_string());
    let mut all = vec!["-u", USER, "-w", PASSWORD, "-p", &port, "-e", &peer_ip, "-r", &peer_port];
    all.extend(["-n", "20", "-m", "1", "-l", "300", "-z", "5", "-c"]);
    all.extend(arguments);
    all.push(&host);
    for _ in 0..MAX_STARTS {
        let (is_good, text) = run("turnutils_uclient", &all);
        if text.contains("channel bind: error 400") {
            continue;
        }
        let is_tls = arguments.starts_with(&["-t", "-S"]);
        assert!(is_good || is_tls, "{arguments:?}: {text}");
        let numbers = |name: &str| -> Option<u64> {
            let rest = text.rsplit_once(name)?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let (sent, received) = (numbers("tot_send_msgs="), numbers("tot_recv_msgs="));
        if sent > Some(0) && sent == received {
            return;
        }
        assert!(is_tls, "{arguments:?}: {text}");
    }
    panic!("{arguments:?}: never a good channel or whole records");
}

#[test]
fn coturns_client_works_over_udp() {
    let server = server();
    let echo = Peer::echo();
    for arguments in [&["-s"][..], &[], &["-g", "-s"], &["-s", "-D"], &["-X", "-s"]] {
        uclient(server.udp(), echo, arguments);
    }
}

#[test]
fn coturns_clients_meet_by_their_relays() {
    let server = server();
    let echo = Peer::echo();
    uclient(server.udp(), echo, &["-y", "-s"]);
    uclient(server.tcp(), echo, &["-y", "-s", "-t"]);
}

#[test]
fn coturns_client_works_over_tcp_tls_and_dtls() {
    let server = server();
    let echo = Peer::echo();
    uclient(server.tcp(), echo, &["-t", "-s"]);
    uclient(server.tcp(), echo, &["-t"]);
    uclient(server.tls(), echo, &["-t", "-S", "-s"]);
    uclient(server.dtls(), echo, &["-S", "-s"]);
}

#[test]
fn coturns_client_works_with_both_families() {
    let server = server();
    let peer = UdpSocket::bind("[::1]:0").unwrap();
    let address = peer.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = peer.recv_from(&mut buffer) {
            let _lost = peer.send_to(&buffer[..length], from);
        }
    });
    uclient(server.udp(), address, &["-x", "-s"]);
    uclient(server.udp(), Peer::echo(), &["-Z", "-s"]);
}

#[test]
fn coturns_stun_tools_learn_their_address() {
    let server = server();
    let (port, host) = (server.udp().port().to_string(), server.udp().ip().to_string());
    let (is_good, text) = run("turnutils_stunclient", &["-p", &port, &host]);
    assert!(is_good && text.contains("reflexive addr: 127.0.0.1:"), "{text}");
    let (_, text) = run("turnutils_natdiscovery", &["-m", "-p", &port, &host]);
    assert!(text.contains("reflexive addr: 127.0.0.1:"), "{text}");
}

#[tokio::test]
async fn the_turn_crate_works() {
    let server = server();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(ClientConfig {
        stun_serv_addr: server.udp().to_string(),
        turn_serv_addr: server.udp().to_string(),
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        realm: "test".to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(socket),
        vnet: None,
    })
    .await
    .unwrap();
    client.listen().await.unwrap();
    let relay = client.allocate().await.unwrap();
    let echo = Peer::echo();
    let mut buffer = [0; 2000];
    // First by indications, then by the channel that the client binds meanwhile.
    for round in 0..20_u8 {
        let data = vec![round; 500];
        relay.send_to(&data, echo).await.unwrap();
        let (length, from) = relay.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (&data[..], echo));
    }
    client.close().await.unwrap();
}
