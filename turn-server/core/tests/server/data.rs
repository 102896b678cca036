//! Data in both directions.

use turn_server_core::api::{Client, ClientAction, Config, Icmp, RelayId, ToClient, Transport};
use turn_server_core::counters::DropReason;
use turn_server_core::stun::{Class, Message, Method, Writer, attribute as a};

use crate::harness::{Answer, Turn, at, config, tcp, udp};

fn client() -> Client {
    udp("203.0.113.9:1")
}

fn allocated() -> (Turn, RelayId) {
    let mut turn = Turn::default_peers();
    turn.allocate(client());
    let relay = turn.relay();
    (turn, relay)
}

/// The message that the program makes of a peer's data.
fn message(to: &ToClient, data: &[u8]) -> Vec<u8> {
    let mut message = to.header().to_vec();
    message.extend_from_slice(data);
    message.resize(message.len() + to.padding, 0);
    message
}

#[test]
fn data_of_every_length_arrives_as_it_was() {
    for remote in [client(), tcp("203.0.113.9:1")] {
        for length in [0, 1, 2, 3, 4, 1199, 1200, 65_471] {
            let mut turn = Turn::default_peers();
            turn.allocate(remote);
            let relay = turn.relay();
            let data = vec![0xD7; length];
            let (peer, other) = (at("8.8.8.8:1"), at("8.8.8.8:2"));
            assert_eq!(turn.bind(remote, 0x4000, "8.8.8.8:1"), None);
            assert_eq!(turn.channel_data(remote, 0x4000, &data), Some(peer));

            let to = turn.server.handle_peer(relay, peer, length, turn.now).unwrap();
            let channel = message(&to, &data);
            assert_eq!(channel[..2], [0x40, 0]);
            assert_eq!(usize::from(u16::from_be_bytes([channel[2], channel[3]])), length);
            assert_eq!(channel[4..4 + length], data);
            let is_stream = remote.transport == Transport::Tcp;
            let padded = if is_stream { length.next_multiple_of(4) } else { length };
            assert_eq!(channel.len(), 4 + padded, "padded on streams only");

            let to = turn.server.handle_peer(relay, other, length, turn.now).unwrap();
            let bytes = message(&to, &data);
            let indication = Message::parse(&bytes).unwrap();
            assert_eq!((indication.class, indication.method), (Class::Indication, Method::Data));
            assert_eq!(indication.peer, Some(other), "no channel for this port");
            assert_eq!(bytes[indication.data.unwrap()], data);
            assert_eq!(bytes.len() % 4, 0);
            assert!(to.header().len() <= turn_server_core::api::MAX_HEADER);
        }
    }
}

#[test]
fn the_longest_channel_data_goes_out_and_too_long_data_does_not_come_in() {
    let (mut turn, relay) = allocated();
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None);
    assert!(turn.channel_data(client(), 0x4000, &vec![1; 65_535]).is_some());
    assert_eq!(turn.server.handle_peer(relay, at("8.8.8.8:1"), 65_535, turn.now), None);
    assert_eq!(turn.server.counters().dropped_for(DropReason::TooLong), 1);
}

#[test]
fn channel_data_may_be_padded_but_not_cut() {
    let (mut turn, _) = allocated();
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None);
    let padded = [0x40, 0, 0, 3, 1, 2, 3, 0];
    let ClientAction::Relay { payload, .. } = turn.give(client(), &padded) else { panic!() };
    assert_eq!(payload, 4..7);
    for cut in [&[0x40][..], &[0x40, 0, 0], &[0x40, 0, 0, 3, 1, 2]] {
        assert_eq!(turn.give(client(), cut), ClientAction::None);
    }
    assert_eq!(turn.server.counters().dropped_for(DropReason::Malformed), 3);
}

#[test]
fn indications_of_a_wrong_form_go_nowhere() {
    let (mut turn, _) = allocated();
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    let of = |build: fn(&mut Writer)| {
        let mut writer = Writer::new(Class::Indication, Method::Send, [1; 12]);
        build(&mut writer);
        writer.finish(None, false)
    };
    for bytes in [
        of(|_| {}),
        of(|writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, at("8.8.8.8:1"));
        }),
        of(|writer| {
            writer.attribute(a::DATA, b"x");
        }),
        of(|writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, at("8.8.8.8:1")).attribute(a::DATA, b"x");
            writer.attribute(0x0033, b"unknown");
        }),
    ] {
        let sent = turn.sent.len();
        assert_eq!(turn.give(client(), &bytes), ClientAction::None);
        assert_eq!(turn.sent.len(), sent, "indications get no answer");
    }
}

#[test]
fn dont_fragment_is_passed_on() {
    let (mut turn, _) = allocated();
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    let mut writer = Writer::new(Class::Indication, Method::Send, [1; 12]);
    writer.xor_address(a::XOR_PEER_ADDRESS, at("8.8.8.8:1"));
    writer.attribute(a::DATA, b"x").attribute(a::DONT_FRAGMENT, b"");
    let action = turn.give(client(), &writer.finish(None, false));
    assert!(matches!(action, ClientAction::Relay { dont_fragment: true, .. }), "{action:?}");
}

#[test]
fn peers_without_permission_are_only_counted() {
    let (mut turn, relay) = allocated();
    let sent = turn.sent.len();
    for _ in 0..100 {
        assert_eq!(turn.server.handle_peer(relay, at("8.8.8.8:1"), 9, turn.now), None);
    }
    turn.run();
    assert_eq!(turn.sent.len(), sent);
    assert_eq!(turn.server.counters().dropped_for(DropReason::NoPermission), 100);
}

#[test]
fn data_for_a_closed_relay_never_reaches_its_successor() {
    let (mut turn, relay) = allocated();
    turn.ask(client(), Method::Refresh, |writer| {
        writer.number(a::LIFETIME, 0);
    });
    turn.allocate(client());
    let next = turn.relay();
    assert_eq!(relay.slot(), next.slot(), "the slot is used again");
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    assert_eq!(turn.server.handle_peer(relay, at("8.8.8.8:1"), 9, turn.now), None);
    assert!(turn.server.handle_peer(next, at("8.8.8.8:1"), 9, turn.now).is_some());
}

#[test]
fn errors_on_the_way_are_told_for_permitted_peers() {
    let (mut turn, relay) = allocated();
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    let icmp = Icmp { kind: 3, code: 4, data: 1280 };
    let sent = turn.sent.len();
    turn.server.handle_icmp(relay, at("9.9.9.9:1"), icmp, turn.now);
    turn.run();
    assert_eq!(turn.sent.len(), sent);
    turn.server.handle_icmp(relay, at("8.8.8.8:5"), icmp, turn.now);
    turn.run();
    let (to, bytes) = turn.sent.pop().unwrap();
    assert_eq!(to, client());
    let indication = Answer::read(bytes);
    assert_eq!(indication.address(a::XOR_PEER_ADDRESS), Some(at("8.8.8.8:5")));
    assert_eq!(indication.get(a::ICMP), Some(&[0, 0, 3, 4, 0, 0, 5, 0][..]));
    assert_eq!(indication.get(a::DATA), None);
}

#[test]
fn errors_on_the_way_are_not_told_to_clients_that_cannot_take_it() {
    let mut turn = Turn::new(Config { hide_errors: true, ..config() });
    turn.allocate(client());
    let relay = turn.relay();
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    let sent = turn.sent.len();
    turn.server.handle_icmp(relay, at("8.8.8.8:5"), Icmp { kind: 3, code: 3, data: 0 }, turn.now);
    turn.run();
    assert_eq!(turn.sent.len(), sent);
}

#[test]
fn what_was_relayed_is_counted() {
    let (mut turn, relay) = allocated();
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None);
    turn.channel_data(client(), 0x4000, b"four");
    turn.send(client(), "8.8.8.8:1", b"seven..");
    turn.server.handle_peer(relay, at("8.8.8.8:1"), 5, turn.now);
    let counters = turn.server.counters();
    assert_eq!((counters.to_peer_packets, counters.to_peer_bytes), (2, 11));
    assert_eq!((counters.to_client_packets, counters.to_client_bytes), (1, 5));
}
