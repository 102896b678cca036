//! Those who want to use the server up.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use turn_server_core::stun::{Class, Method, Writer, attribute as a};

use crate::client::{Answer, Peer, tcp, tls, udp};
use crate::server::{PATIENCE, Server, until};
use crate::silence::in_namespace;

/// Strangers of the test; `TURN_STRANGERS=1000000` is the long form.
const STRANGERS: u32 = 100_000;
/// Wrong passwords, one after the other.
const GUESSES: u64 = 300;
/// What they may cost, however many they are.
const GROWTH: u64 = 1024 * 1024;

fn assert_closed(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match stream.read(&mut [0; 999]) {
        Ok(0) => {}
        Ok(length) => panic!("{length} bytes"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

#[test]
fn strangers_cost_no_memory() {
    in_namespace(|| {
        let count: u32 =
            std::env::var("TURN_STRANGERS").map_or(STRANGERS, |count| count.parse().unwrap());
        let server = Server::start(|config, _| config.workers = 1);
        let mut writer = Writer::new(Class::Request, Method::Allocate, [9; 12]);
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let request = writer.finish(None, false);
        let answers = "livecluster_turn_errors_total{code=\"401\"}";
        let ask = |stranger: u32| {
            let [_, b, c, d] = stranger.to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(11, b, c, d), 0)).unwrap();
            socket.send_to(&request, server.udp()).unwrap();
            socket
        };
        // The first ones fill buffers that stay.
        for stranger in 1..10_000 {
            ask(stranger);
        }
        server.await_metric(answers, |answered| answered > 5_000);
        let before = server.resident();
        let mut answered = 0;
        for stranger in 10_000..10_000 + count {
            let socket = ask(stranger);
            if stranger % 100 == 0 {
                // One in a hundred waits, so that the server is not outrun.
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                assert!(socket.recv(&mut [0; 200]).is_ok());
                answered += 1;
            }
        }
        assert_eq!(answered, count.div_ceil(100));
        server.await_metric(answers, |answered| answered > u64::from(count) * 9 / 10);
        let growth = server.resident().saturating_sub(before);
        assert!(growth <= GROWTH, "{growth} bytes for {count} strangers");
        udp(&server).allocated();
    });
}

#[test]
fn connections_without_an_allocation_are_closed() {
    let server = Server::secure(|config, _| config.limits.connection_setup_s = 1);
    let mut session = tcp(&server);
    session.allocated();
    assert_eq!(session.bind(0x4000, Peer::echo()), None);
    // Silent ones, half a handshake, half a message.
    let mut hello = TcpStream::connect(server.tls()).unwrap();
    hello.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).unwrap();
    let mut half = TcpStream::connect(server.tcp()).unwrap();
    half.write_all(&[0x00, 0x01, 0x00]).unwrap();
    let mut silent = TcpStream::connect(server.tcp()).unwrap();
    for stream in [&mut hello, &mut half, &mut silent] {
        assert_closed(stream);
    }
    // A byte now and then does not help.
    let mut slow = TcpStream::connect(server.tcp()).unwrap();
    let begin = Instant::now();
    until("the slow one is closed", || {
        std::thread::sleep(Duration::from_millis(100));
        slow.write_all(&[0]).is_err()
    });
    assert!(begin.elapsed() < Duration::from_secs(10));
    session.assert_relays(0x4000);
    until("all but one are gone", || server.metric("livecluster_turn_connections") == 1);
}

#[test]
fn half_open_handshakes_are_bounded() {
    let server = Server::secure(|config, _| {
        (config.limits.handshakes, config.limits.connection_setup_s) = (10, 2);
    });
    let mut streams: Vec<TcpStream> =
        (0..40).map(|_| TcpStream::connect(server.tls()).unwrap()).collect();
    let refused = "livecluster_turn_connections_total{result=\"refused\"}";
    server.await_metric(refused, |count| count == 30);
    assert_eq!(server.metric("livecluster_turn_handshakes"), 10);
    udp(&server).allocated();
    streams.iter_mut().for_each(assert_closed);
    server.await_metric("livecluster_turn_handshakes", |count| count == 0);
    tls(&server).allocated();
}

#[test]
fn connections_of_an_address_are_bounded() {
    let server = Server::start(|config, _| config.limits.connections_per_address = 3);
    let mut clients: Vec<_> = (0..3).map(|_| tcp(&server)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.allocate().code(), None));
    assert_closed(&mut TcpStream::connect(server.tcp()).unwrap());
    clients.pop();
    until("a place is free", || server.metric("livecluster_turn_connections") == 2);
    tcp(&server).allocated();
}

#[test]
fn streams_that_are_not_turn_are_closed() {
    let server = Server::secure(|_, _| {});
    for (address, bytes) in [
        (server.tcp(), &b"GET / HTTP/1.1\r\n\r\n"[..]),
        (server.tcp(), &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]),
        (server.tcp(), &[0x00, 0x01, 0x00, 0x05, 0, 0, 0, 0]),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(bytes).unwrap();
        assert_closed(&mut stream);
    }
    let mut stream = TcpStream::connect(server.tls()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    // TLS says why before it ends.
    let _alert = stream.read(&mut [0; 99]);
    server.await_metric("livecluster_turn_connections", |count| count == 0);
}

#[test]
fn a_client_that_does_not_read_loses_its_own_media_only() {
    let server = Server::plain();
    let peer = Peer::new();
    let mut slow = tcp(&server);
    let slow_relay = slow.allocated();
    assert_eq!(slow.bind(0x4000, peer.address()), None);
    let mut other = udp(&server);
    let other_relay = other.allocated();
    assert_eq!(other.bind(0x4000, peer.address()), None);
    let before = server.resident();
    let dropped = "livecluster_turn_dropped_total{reason=\"not_taken\"}";
    until("the slow one loses packets", || {
        for _ in 0..500 {
            peer.0.send_to(&[1; 1200], slow_relay).unwrap();
        }
        server.metric(dropped) > 1000
    });
    let growth = server.resident().saturating_sub(before);
    assert!(growth < 16 * 1024 * 1024, "{growth} bytes");
    peer.0.send_to(b"prompt", other_relay).unwrap();
    assert_eq!(other.receive_channel(), (0x4000, b"prompt".to_vec()));
    // It reads again, and what comes is whole.
    for _ in 0..100 {
        assert_eq!(slow.receive_channel(), (0x4000, vec![1; 1200]));
    }
}

#[test]
fn relayed_ports_run_out_for_newcomers_only() {
    let server = Server::start(|config, _| {
        (config.relay.ports.first, config.relay.ports.last) = (61_000, 61_009);
        config.workers = 1;
    });
    let mut clients: Vec<_> = (0..10).map(|_| udp(&server)).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.allocate().code(), None));
    let mut late = udp(&server);
    assert_eq!(late.allocate().code(), Some(508));
    assert_eq!(clients[4].refresh(0), None);
    assert_eq!(late.allocate().code(), None);
    assert_eq!(clients[5].bind(0x4000, Peer::echo()), None);
    clients[5].assert_relays(0x4000);
}

#[test]
fn challenges_are_rationed() {
    let server = Server::start(|config, _| {
        (config.limits.challenges_per_second, config.workers) = (20, 1);
    });
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(server.udp()).unwrap();
    let mut writer = Writer::new(Class::Request, Method::Allocate, [9; 12]);
    writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let request = writer.finish(None, false);
    for _ in 0..500 {
        socket.send(&request).unwrap();
    }
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 200];
    let mut answers = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        assert!(length * 10 <= request.len() * 36, "{length} bytes");
        answers += 1;
    }
    assert!((20..60).contains(&answers), "{answers} answers");
    crate::client::udp_from("127.0.0.5".parse().unwrap(), server.udp()).allocated();
}

#[test]
fn guesses_at_a_password_are_rationed() {
    let server = Server::start(|config, _| {
        (config.limits.challenges_per_second, config.workers) = (20, 1);
    });
    // Somebody at the guesser's address, as behind one NAT, and one elsewhere.
    let mut neighbour = udp(&server);
    neighbour.allocated();
    assert_eq!(neighbour.bind(0x4000, Peer::echo()), None);
    let mut guesser = udp(&server);
    guesser.account.1 = "guess".to_owned();
    assert_eq!(guesser.allocate().code(), Some(401), "a good nonce, a wrong password");
    let begin = Instant::now();
    for _ in 0..GUESSES {
        let guess = guesser.request(Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        guesser.wire.send(&guess);
    }
    let mut answers = 0;
    while let Some(bytes) = guesser.wire.receive(Duration::from_millis(500)) {
        assert_eq!(Answer(bytes).code(), Some(401));
        answers += 1;
    }
    // A second's worth at once, and what comes in while they are sent.
    let most = 20 * (2 + begin.elapsed().as_secs());
    assert!((1..=most).contains(&answers), "{answers} answers");
    neighbour.assert_relays(0x4000);
    assert_eq!(neighbour.refresh(600), None);
    let dropped = "livecluster_turn_dropped_total{reason=\"challenge_budget\"}";
    server.await_metric(dropped, |dropped| dropped + answers == GUESSES);
    server.await_metric("livecluster_turn_allocations", |allocations| allocations == 1);
    crate::client::udp_from("127.0.0.5".parse().unwrap(), server.udp()).allocated();
}

#[test]
fn a_server_out_of_descriptors_goes_on_with_what_it_has() {
    let server = Server::with_descriptors(80);
    let mut first = udp(&server);
    first.allocated();
    assert_eq!(first.bind(0x4000, Peer::echo()), None);
    let mut others = Vec::new();
    let refused = (0..200).find_map(|_| {
        let mut client = udp(&server);
        let code = client.allocate().code();
        others.push(client);
        code
    });
    assert_eq!(refused, Some(508));
    first.assert_relays(0x4000);
    // Nobody can take these connections; the listener and everybody else go on.
    let waiting: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(server.tcp()).unwrap()).collect();
    first.assert_relays(0x4000);
    others.pop();
    for client in &mut others {
        assert_eq!(client.refresh(0), None);
    }
    drop(waiting);
    let mut late = tcp(&server);
    late.allocated();
    assert_eq!(late.bind(0x4000, Peer::echo()), None);
    late.assert_relays(0x4000);
    first.assert_relays(0x4000);
}
