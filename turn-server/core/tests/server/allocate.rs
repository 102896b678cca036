//! Allocate and Refresh.

use std::net::SocketAddr;

use turn_server_core::api::{Alternate, BindError, Config, RelayAddress};
use turn_server_core::stun::{Method, Writer, attribute as a};

use crate::harness::{ALICE, REALM, Turn, at, config, ip, signer, tcp, udp};

fn client() -> turn_server_core::api::Client {
    udp("203.0.113.9:1")
}

/// Asks for an allocation with these attributes.
fn allocate(turn: &mut Turn, remote: &str, attributes: &[(u16, &[u8])]) -> Option<u16> {
    turn.ask(udp(remote), Method::Allocate, |writer| {
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
    })
    .code
}

const UDP: (u16, &[u8]) = (a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
const IPV4: &[u8] = &[1, 0, 0, 0];
const IPV6: &[u8] = &[2, 0, 0, 0];

#[test]
fn an_allocation_tells_its_addresses_and_life() {
    let mut turn = Turn::default_peers();
    let answer = turn.allocate(client());
    assert_eq!(answer.code, None);
    let relayed = answer.address(a::XOR_RELAYED_ADDRESS).unwrap();
    assert_eq!(relayed.ip(), ip("192.0.2.1"));
    assert!((50_000..=50_999).contains(&relayed.port()));
    assert_eq!(turn.relays[&turn.relay()], relayed);
    assert_eq!(answer.address(a::XOR_MAPPED_ADDRESS), Some(at("203.0.113.9:1")));
    assert_eq!(answer.number(a::LIFETIME), Some(600));
    assert_eq!(answer.get(a::SOFTWARE), Some(&b"test"[..]));
    assert_eq!(answer.get(a::FINGERPRINT), None, "nobody asked");
    assert!(answer.is_signed_by(signer(ALICE, REALM)));
}

#[test]
fn clients_are_told_the_public_address() {
    let address = RelayAddress { bind: ip("10.0.0.5"), advertise: ip("198.51.100.77") };
    let mut turn = Turn::new(Config { relay_addresses: vec![address], ..config() });
    let answer = turn.allocate(client());
    assert_eq!(answer.address(a::XOR_RELAYED_ADDRESS).unwrap().ip(), ip("198.51.100.77"));
    assert_eq!(turn.relays[&turn.relay()].ip(), ip("10.0.0.5"));
}

#[test]
fn lives_are_ten_minutes_to_an_hour() {
    for (asked, granted) in [
        (None, 600),
        (Some(30), 600),
        (Some(600), 600),
        (Some(1800), 1800),
        (Some(3600), 3600),
        (Some(7200), 3600),
        (Some(u32::MAX), 3600),
    ] {
        let mut turn = Turn::default_peers();
        let with_life = |writer: &mut Writer| {
            if let Some(asked) = asked {
                writer.number(a::LIFETIME, asked);
            }
        };
        let answer = turn.ask(client(), Method::Allocate, |writer| {
            writer.attribute(UDP.0, UDP.1);
            with_life(writer);
        });
        assert_eq!(answer.number(a::LIFETIME), Some(granted), "{asked:?}");
        let answer = turn.ask(client(), Method::Refresh, with_life);
        assert_eq!(answer.number(a::LIFETIME), Some(granted), "{asked:?}");
        turn.wait(u64::from(granted) - 1);
        assert_eq!(turn.server.allocations(), 1);
        turn.wait(1);
        assert_eq!((turn.server.allocations(), turn.relays.len()), (0, 0));
        assert_eq!(turn.server.poll_timeout(), None);
    }
}

#[test]
fn a_repeated_request_gets_the_same_answer() {
    let mut turn = Turn::default_peers();
    let request = turn.signed(client(), ALICE, Method::Allocate, |writer| {
        writer.attribute(UDP.0, UDP.1);
    });
    let first = turn.exchange(client(), &request).unwrap();
    let second = turn.exchange(client(), &request).unwrap();
    assert_eq!(first.bytes, second.bytes);
    assert_eq!((turn.server.allocations(), turn.relays.len()), (1, 1));
    assert_eq!(turn.server.counters().allocations_made, 1);
    assert_eq!(turn.allocate(client()).code, Some(437), "another transaction");
}

#[test]
fn a_request_repeated_before_its_sockets_are_open_is_answered_once() {
    let mut turn = Turn::default_peers();
    let request = turn.signed(client(), ALICE, Method::Allocate, |writer| {
        writer.attribute(UDP.0, UDP.1);
    });
    let sent = turn.sent.len();
    for _ in 0..3 {
        turn.server.handle_client(client(), &request, turn.now);
    }
    turn.run();
    assert_eq!(turn.sent.len(), sent + 1);
    assert_eq!(turn.relays.len(), 1);
}

#[test]
fn contradictory_and_impossible_requests_are_refused() {
    let even: (u16, &[u8]) = (a::EVEN_PORT, &[0x80]);
    let token: (u16, &[u8]) = (a::RESERVATION_TOKEN, &[1; 8]);
    let family = |family| (a::REQUESTED_ADDRESS_FAMILY, family);
    let more = |family| (a::ADDITIONAL_ADDRESS_FAMILY, family);
    for (attributes, code) in [
        (&[][..], 400),
        (&[(a::REQUESTED_TRANSPORT, &[17][..])], 400),
        (&[(a::REQUESTED_TRANSPORT, &[132, 0, 0, 0][..])], 442),
        (&[(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0][..])], 400),
        (&[UDP, token, even], 400),
        (&[UDP, token, family(IPV4)], 400),
        (&[UDP, token], 508),
        (&[UDP, (a::RESERVATION_TOKEN, &[1; 7])], 400),
        (&[UDP, family(IPV4), more(IPV6)], 400),
        (&[UDP, even, more(IPV6)], 400),
        (&[UDP, more(IPV4)], 400),
        (&[UDP, family(&[3, 0, 0, 0])], 440),
        (&[UDP, (a::LIFETIME, &[1])], 400),
    ] {
        let mut turn = Turn::default_peers();
        assert_eq!(allocate(&mut turn, "203.0.113.9:1", attributes), Some(code), "{attributes:?}");
        assert_eq!((turn.server.allocations(), turn.relays.len()), (0, 0));
    }
}

#[test]
fn families_are_chosen() {
    let mut turn = Turn::default_peers();
    let v6 = (a::REQUESTED_ADDRESS_FAMILY, IPV6);
    assert_eq!(allocate(&mut turn, "203.0.113.9:1", &[UDP, v6]), None);
    assert!(turn.relays[&turn.relay()].is_ipv6());
    let only_v4 = vec![config().relay_addresses[0]];
    let mut turn = Turn::new(Config { relay_addresses: only_v4, ..config() });
    assert_eq!(allocate(&mut turn, "203.0.113.9:1", &[UDP, v6]), Some(440));
}

#[test]
fn both_families_may_be_had_at_once() {
    let mut turn = Turn::default_peers();
    let ask = |turn: &mut Turn| {
        turn.ask(client(), Method::Allocate, |writer| {
            writer.attribute(UDP.0, UDP.1).attribute(a::ADDITIONAL_ADDRESS_FAMILY, IPV6);
        })
    };
    let older = [UDP, (a::ADDITIONAL_ADDRESS_FAMILY_DRAFT, IPV6)];
    assert_eq!(allocate(&mut Turn::default_peers(), "203.0.113.9:1", &older), None);
    let answer = ask(&mut turn);
    assert_eq!(answer.all(a::XOR_RELAYED_ADDRESS).len(), 2);
    assert_eq!((answer.get(a::ADDRESS_ERROR_CODE), turn.relays.len()), (None, 2));
    for peer in ["8.8.8.8:1", "[2606:4700::1]:1"] {
        assert_eq!(turn.permit(client(), peer), None);
        assert_eq!(turn.send(client(), peer, b"x"), Some(at(peer)));
    }
    // One family goes, the other stays.
    let answer = turn.ask(client(), Method::Refresh, |writer| {
        writer.number(a::LIFETIME, 0).attribute(a::REQUESTED_ADDRESS_FAMILY, IPV6);
    });
    assert_eq!((answer.code, turn.relays.len()), (None, 1));
    assert_eq!(turn.send(client(), "[2606:4700::1]:1", b"x"), None);
    assert!(turn.send(client(), "8.8.8.8:1", b"x").is_some());

    let only_v4 = vec![config().relay_addresses[0]];
    let mut turn = Turn::new(Config { relay_addresses: only_v4, ..config() });
    let answer = ask(&mut turn);
    assert_eq!((answer.code, answer.all(a::XOR_RELAYED_ADDRESS).len()), (None, 1));
    assert_eq!(answer.get(a::ADDRESS_ERROR_CODE), Some(&[2, 0, 4, 40][..]));

    let mut turn = Turn::default_peers();
    turn.busy = |address| address.is_ipv6().then_some(BindError::Failed);
    let answer = ask(&mut turn);
    assert_eq!((answer.code, turn.relays.len()), (None, 1));
    assert_eq!(answer.get(a::ADDRESS_ERROR_CODE), Some(&[2, 0, 5, 8][..]));
}

#[test]
fn a_refresh_names_a_family_that_there_is() {
    for (family, code) in [(IPV4, None), (IPV6, Some(443)), (&[9, 0, 0, 0], Some(443))] {
        let mut turn = Turn::default_peers();
        turn.allocate(client());
        let answer = turn.ask(client(), Method::Refresh, |writer| {
            writer.attribute(a::REQUESTED_ADDRESS_FAMILY, family);
        });
        assert_eq!(answer.code, code);
    }
}

#[test]
fn a_refresh_of_nothing_ends_the_allocation() {
    let mut turn = Turn::default_peers();
    turn.allocate(client());
    let end = |turn: &mut Turn| {
        turn.ask(client(), Method::Refresh, |writer| {
            writer.number(a::LIFETIME, 0);
        })
    };
    assert_eq!(end(&mut turn).code, None);
    assert_eq!((turn.server.allocations(), turn.relays.len()), (0, 0));
    assert_eq!(turn.server.counters().allocations, 0);
    assert_eq!(end(&mut turn).code, Some(437));
    assert_eq!(turn.allocate(client()).code, None);
}

#[test]
fn an_even_port_and_the_next_one_belong_together() {
    let mut turn = Turn::default_peers();
    let answer = turn.ask(client(), Method::Allocate, |writer| {
        writer.attribute(UDP.0, UDP.1).attribute(a::EVEN_PORT, &[0x80]);
    });
    let even = answer.port(a::XOR_RELAYED_ADDRESS);
    assert_eq!(even % 2, 0);
    let token = answer.get(a::RESERVATION_TOKEN).unwrap().to_vec();
    let with_token = |turn: &mut Turn, remote| {
        turn.ask(udp(remote), Method::Allocate, |writer| {
            writer.attribute(UDP.0, UDP.1).attribute(a::RESERVATION_TOKEN, &token);
        })
    };
    let answer = with_token(&mut turn, "203.0.113.9:2");
    assert_eq!(answer.port(a::XOR_RELAYED_ADDRESS), even + 1);
    assert_eq!(with_token(&mut turn, "203.0.113.9:3").code, Some(508), "used once");
    let answer = turn.ask(udp("203.0.113.9:4"), Method::Allocate, |writer| {
        writer.attribute(UDP.0, UDP.1).attribute(a::EVEN_PORT, &[0]);
    });
    assert_eq!(answer.port(a::XOR_RELAYED_ADDRESS) % 2, 0);
    assert_eq!(answer.get(a::RESERVATION_TOKEN), None);
}

#[test]
fn a_reservation_waits_thirty_seconds_and_survives_its_maker() {
    for (seconds, code) in [(29, None), (31, Some(508))] {
        let mut turn = Turn::new(Config { relay_ports: 50_000..=50_001, ..config() });
        let answer = turn.ask(client(), Method::Allocate, |writer| {
            writer.attribute(UDP.0, UDP.1).attribute(a::EVEN_PORT, &[0x80]);
        });
        let token = answer.get(a::RESERVATION_TOKEN).unwrap().to_vec();
        turn.ask(client(), Method::Refresh, |writer| {
            writer.number(a::LIFETIME, 0);
        });
        turn.wait(seconds);
        let attributes = [UDP, (a::RESERVATION_TOKEN, &*token)];
        assert_eq!(allocate(&mut turn, "203.0.113.9:2", &attributes), code);
        let both = [UDP, (a::EVEN_PORT, &[0x80][..])];
        let expected = if code.is_none() { Some(508) } else { None };
        assert_eq!(allocate(&mut turn, "203.0.113.9:3", &both), expected, "no port is lost");
    }
}

#[test]
fn taken_ports_are_passed_over() {
    let mut turn = Turn::default_peers();
    turn.busy = |address: SocketAddr| {
        (!address.port().is_multiple_of(3)).then_some(BindError::AddressInUse)
    };
    for host in 11..=20 {
        let answer = turn.allocate(udp(&format!("203.0.113.{host}:1")));
        assert!(answer.code.is_none() || answer.code == Some(508), "eight tries");
    }
    turn.busy = |_| Some(BindError::AddressInUse);
    let before = (turn.server.allocations(), turn.relays.len());
    assert_eq!(turn.allocate(client()).code, Some(508));
    turn.busy = |_| Some(BindError::Failed);
    assert_eq!(turn.allocate(client()).code, Some(508));
    assert_eq!((turn.server.allocations(), turn.relays.len()), before);
}

#[test]
fn the_end_of_a_connection_ends_its_allocation() {
    let mut turn = Turn::default_peers();
    let client = tcp("203.0.113.9:1");
    turn.allocate(client);
    turn.server.client_closed(client);
    turn.run();
    assert_eq!((turn.server.allocations(), turn.relays.len()), (0, 0));
}

#[test]
fn a_draining_server_keeps_what_it_has() {
    let elsewhere = |domain: Option<&str>| Alternate {
        server: at("198.51.100.2:3478"),
        domain: domain.map(str::to_owned),
    };
    for (alternate, code) in [
        (None, 508),
        (Some(elsewhere(None)), 300),
        (Some(elsewhere(Some("turn.example.com"))), 300),
    ] {
        let domain = alternate.as_ref().and_then(|alternate| alternate.domain.clone());
        let is_somewhere = alternate.is_some();
        let mut turn = Turn::new(Config { alternate, ..config() });
        turn.allocate(client());
        turn.server.drain();
        let answer = turn.allocate(udp("203.0.113.9:2"));
        assert_eq!(answer.code, Some(code));
        assert_eq!(answer.get(a::ALTERNATE_SERVER).is_some(), is_somewhere);
        let named = answer.get(a::ALTERNATE_DOMAIN).map(<[u8]>::to_vec);
        assert_eq!(named, domain.map(String::into_bytes));
        assert!(answer.is_signed_by(signer(ALICE, REALM)));
        assert_eq!(turn.ask(client(), Method::Refresh, |_| {}).code, None);
        assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    }
}

#[test]
fn tcp_is_relayed_for_connections_only() {
    let mut turn = Turn::default_peers();
    let answer = turn.ask(tcp("203.0.113.9:1"), Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    });
    assert_eq!(answer.code, None);
    for attribute in [a::EVEN_PORT, a::DONT_FRAGMENT] {
        let answer = turn.ask(tcp("203.0.113.9:2"), Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
            writer.attribute(attribute, if attribute == a::EVEN_PORT { &[0] } else { &[] });
        });
        assert_eq!(answer.code, Some(400));
    }
}
