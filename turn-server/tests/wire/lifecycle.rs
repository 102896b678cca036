//! Start, drain, end, and what clients see of a restart.

use std::process::Command;
use std::time::{Duration, Instant};

use turn_server_core::stun::{Method, attribute as a};

use crate::client::{Peer, tcp, udp};
use crate::server::{Server, config, replace, until};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_turn-server"))
}

#[test]
fn the_command_line_is_checked() {
    let output = program().arg("--version").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("turn-server "));
    assert!(!program().output().unwrap().status.success(), "neither --dev nor --config");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("turn.yaml");
    std::fs::write(&file, "relay: {addresses: []}\n").unwrap();
    let output = program().arg("--config").arg(&file).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("relay.addresses"), "{error}");
}

#[test]
fn a_taken_port_is_named() {
    let server = Server::plain();
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.listen.udp = vec![Peer::new().address()];
    config.listen.tcp = vec![server.admin];
    let file = directory.path().join("turn.yaml");
    std::fs::write(&file, config.to_yaml().unwrap()).unwrap();
    let output = program().arg("--config").arg(&file).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&server.admin.to_string()), "{error}");
}

#[test]
fn probes_and_metrics_are_served() {
    let server = Server::plain();
    assert_eq!(server.http("GET", "/healthz"), (200, "ok".to_owned()));
    assert_eq!(server.http("GET", "/readyz"), (200, "ok".to_owned()));
    assert_eq!(server.http("GET", "/drain").0, 405);
    let mut client = udp(&server);
    client.allocated();
    assert_eq!(client.bind(0x4000, Peer::echo()), None);
    client.assert_relays(0x4000);
    for (name, value) in [
        ("livecluster_turn_allocations", 1),
        ("turn_total_allocations", 1),
        ("stunner_allocations_active", 1),
        ("livecluster_turn_packets_total{direction=\"to_peer\"}", 3),
        ("livecluster_turn_packets_total{direction=\"to_client\"}", 3),
        ("turn_total_traffic_rcvp", 3),
        ("livecluster_turn_errors_total{code=\"401\"}", 1),
    ] {
        server.await_metric(name, |found| found == value);
    }
}

#[test]
fn a_draining_server_ends_with_its_last_allocation() {
    let mut server = Server::start(|config, _| config.drain_timeout_s = 600);
    let mut session = udp(&server);
    session.allocated();
    assert_eq!(session.bind(0x4000, Peer::echo()), None);
    assert_eq!(server.http("POST", "/drain").0, 202);
    until("nobody new is let in", || udp(&server).allocate().code() == Some(508));
    assert_eq!(server.http("GET", "/readyz").0, 503);
    assert_eq!(server.http("GET", "/healthz").0, 200);
    assert_eq!(server.metric("livecluster_turn_draining"), 1);
    server.signal(libc::SIGTERM);
    session.assert_relays(0x4000);
    assert_eq!(session.refresh(600), None);
    std::thread::sleep(Duration::from_secs(1));
    session.assert_relays(0x4000);
    assert_eq!(session.refresh(0), None);
    assert!(server.ended().success());
}

#[test]
fn draining_has_an_end_and_may_name_another_server() {
    let mut server = Server::start(|config, _| {
        config.drain_timeout_s = 2;
        config.alternate_server = Some("192.0.2.9:3478".parse().unwrap());
    });
    udp(&server).allocated();
    server.await_metric("livecluster_turn_allocations", |value| value == 1);
    let begin = Instant::now();
    server.signal(libc::SIGTERM);
    until("nobody new is let in", || udp(&server).allocate().code() == Some(300));
    let answer = tcp(&server).allocate();
    assert_eq!(answer.code(), Some(300));
    assert_eq!(answer.get(a::ALTERNATE_SERVER), Some(&[0, 1, 0x0d, 0x96, 192, 0, 2, 9][..]));
    assert!(server.ended().success());
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn a_server_without_allocations_ends_at_once() {
    let mut server = Server::start(|config, _| config.drain_timeout_s = 600);
    server.signal(libc::SIGINT);
    assert!(server.ended().success());
}

#[test]
fn after_a_restart_clients_learn_at_once_that_their_allocations_are_gone() {
    let directory = tempfile::tempdir().unwrap();
    replace(&directory.path().join("users"), "alice: wonder\n");
    replace(&directory.path().join("nonce"), &"ab".repeat(32));
    let mut config = config(directory.path());
    config.credentials.nonce_key_file = Some(directory.path().join("nonce"));
    let first = Server::start_in(directory, &config);
    let mut client = udp(&first);
    client.allocated();
    assert_eq!(client.bind(0x4000, Peer::new().address()), None);

    config.listen.udp = vec![first.udp()];
    let directory = first.crash();
    let second = Server::start_in(directory, &config);
    client.send_channel(0x4000, b"lost");
    let begin = Instant::now();
    for method in [Method::Refresh, Method::CreatePermission, Method::ChannelBind] {
        // One request and one answer: the nonce is still good.
        assert_eq!(client.ask(method, |_| {}).code(), Some(437));
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(second.metric("livecluster_turn_errors_total{code=\"438\"}"), 0);
    client.allocated();
}
