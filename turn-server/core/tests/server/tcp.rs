//! TCP allocations (RFC 6062).

use turn_server_core::api::{Client, Command, ConnectError, ConnectionId, RelayId};
use turn_server_core::stun::{Method, attribute as a};

use crate::harness::{ALICE, Account, Answer, BOB, Turn, at, tcp, udp};

fn client() -> Client {
    tcp("203.0.113.9:1")
}

fn data() -> Client {
    tcp("203.0.113.9:2")
}

fn allocated() -> (Turn, RelayId) {
    let mut turn = Turn::default_peers();
    let answer = turn.ask(client(), Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    });
    assert_eq!(answer.code, None);
    let relay = turn.relay();
    (turn, relay)
}

/// Asks for a connection; its name, once the server wants it made.
fn connect(turn: &mut Turn, peer: &str) -> ConnectionId {
    let sent = turn.sent.len();
    let request = turn.signed(client(), ALICE, Method::Connect, |writer| {
        writer.xor_address(a::XOR_PEER_ADDRESS, at(peer));
    });
    turn.give(client(), &request);
    assert_eq!(turn.sent.len(), sent, "no answer before the peer's");
    match turn.commands.pop() {
        Some(Command::Connect { connection, peer: to, .. }) => {
            assert_eq!(to, at(peer));
            connection
        }
        other => panic!("{other:?}"),
    }
}

fn last(turn: &Turn) -> Answer {
    Answer::read(turn.sent.last().unwrap().1.clone())
}

fn bind(turn: &mut Turn, client: Client, account: Account<'_>, id: u32) -> Option<u16> {
    turn.ask_as(client, account, Method::ConnectionBind, |writer| {
        writer.number(a::CONNECTION_ID, id);
    })
    .code
}

#[test]
fn a_connection_is_made_then_bound_then_spliced() {
    let (mut turn, _) = allocated();
    let connection = connect(&mut turn, "8.8.8.8:80");
    assert_eq!(connection.worker(), 3);
    turn.server.connected(connection, Ok(()), turn.now);
    turn.run();
    assert_eq!(last(&turn).number(a::CONNECTION_ID), Some(connection.0));
    assert_eq!(bind(&mut turn, data(), ALICE, connection.0), None);
    assert_eq!(turn.commands, [Command::Splice { connection, client: data() }]);
    assert_eq!(bind(&mut turn, tcp("203.0.113.9:3"), ALICE, connection.0), Some(400), "once");
    turn.wait(500);
    assert_eq!(turn.commands.len(), 1, "a bound connection has no deadline");
    turn.server.client_closed(data());
    turn.run();
    assert_eq!(turn.commands[1..], [Command::CloseConnection { connection }]);
}

#[test]
fn what_cannot_be_bound_is_refused() {
    let (mut turn, _) = allocated();
    let connection = connect(&mut turn, "8.8.8.8:80");
    assert_eq!(bind(&mut turn, data(), ALICE, connection.0), Some(400), "not there yet");
    turn.server.connected(connection, Ok(()), turn.now);
    turn.run();
    assert_eq!(bind(&mut turn, data(), ALICE, connection.0 ^ 1), Some(400));
    assert_eq!(bind(&mut turn, data(), BOB, connection.0), Some(441));
    assert_eq!(bind(&mut turn, udp("203.0.113.9:5"), ALICE, connection.0), Some(400));
    assert_eq!(bind(&mut turn, client(), ALICE, connection.0), Some(400), "the control connection");
    assert!(turn.commands.is_empty());
    assert_eq!(bind(&mut turn, data(), ALICE, connection.0), None);
}

#[test]
fn failures_to_connect_are_told() {
    let (mut turn, _) = allocated();
    for error in [ConnectError::Unreachable, ConnectError::TimedOut] {
        let connection = connect(&mut turn, "8.8.8.8:80");
        turn.server.connected(connection, Err(error), turn.now);
        turn.run();
        assert_eq!(last(&turn).code, Some(447));
        assert_eq!(bind(&mut turn, data(), ALICE, connection.0), Some(400));
    }
}

#[test]
fn a_peer_is_connected_to_once() {
    let (mut turn, _) = allocated();
    connect(&mut turn, "8.8.8.8:80");
    let answer = turn.ask(client(), Method::Connect, |writer| {
        writer.xor_address(a::XOR_PEER_ADDRESS, at("8.8.8.8:80"));
    });
    assert_eq!(answer.code, Some(446));
}

#[test]
fn allocations_are_of_one_kind() {
    let (mut turn, _) = allocated();
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), Some(400));
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    assert_eq!(turn.send(client(), "8.8.8.8:1", b"x"), None);
    let other = tcp("203.0.113.9:7");
    turn.allocate(other);
    let answer = turn.ask(other, Method::Connect, |writer| {
        writer.xor_address(a::XOR_PEER_ADDRESS, at("8.8.8.8:80"));
    });
    assert_eq!(answer.code, Some(400));
}

#[test]
fn peers_with_permission_may_connect() {
    let (mut turn, relay) = allocated();
    assert_eq!(turn.server.accepted(relay, at("8.8.8.8:1234"), turn.now), None);
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    let connection = turn.server.accepted(relay, at("8.8.8.8:1234"), turn.now).unwrap();
    turn.run();
    let attempt = last(&turn);
    assert_eq!(attempt.number(a::CONNECTION_ID), Some(connection.0));
    assert_eq!(attempt.address(a::XOR_PEER_ADDRESS), Some(at("8.8.8.8:1234")));
    assert_eq!(bind(&mut turn, data(), ALICE, connection.0), None);
}

#[test]
fn connections_that_nobody_binds_end() {
    let (mut turn, relay) = allocated();
    let made = connect(&mut turn, "8.8.8.8:80");
    turn.server.connected(made, Ok(()), turn.now);
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    let accepted = turn.server.accepted(relay, at("8.8.8.8:1234"), turn.now).unwrap();
    turn.run();
    let lost = connect(&mut turn, "9.9.9.9:80");
    turn.wait(30);
    let mut expected = [
        Command::CloseConnection { connection: made },
        Command::CloseConnection { connection: accepted },
    ];
    let key = |command: &Command| format!("{command:?}");
    expected.sort_by_key(key);
    turn.commands.sort_by_key(key);
    assert_eq!(turn.commands, expected);
    turn.wait(30);
    assert_eq!(last(&turn).code, Some(447), "nobody ever said how connecting went");
    assert_eq!(turn.commands[2..], [Command::CloseConnection { connection: lost }]);
}

#[test]
fn the_end_of_the_allocation_ends_its_connections() {
    let (mut turn, _) = allocated();
    let connection = connect(&mut turn, "8.8.8.8:80");
    turn.server.connected(connection, Ok(()), turn.now);
    turn.run();
    assert_eq!(bind(&mut turn, data(), ALICE, connection.0), None);
    turn.server.client_closed(client());
    turn.run();
    assert_eq!(turn.commands[1..], [Command::CloseConnection { connection }]);
    assert_eq!(turn.relays.len(), 0);
    turn.wait(4000);
    assert_eq!(turn.server.poll_timeout(), None);
}
