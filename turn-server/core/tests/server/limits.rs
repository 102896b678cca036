//! What one client, user or address may use; others are not affected.

use contract::turn_config::TurnLimits;
use contract::turn_credentials::RestUser;
use turn_server_core::api::{Config, Credentials, Settings};
use turn_server_core::counters::DropReason;
use turn_server_core::stun::{Method, attribute as a};

use crate::harness::{Account, BEGIN_S, BOB, Turn, at, config, settings, tcp, udp};

fn with_limits(limits: TurnLimits) -> Turn {
    let settings = Settings { limits, ..settings() };
    Turn::new(Config { settings, ..config() })
}

fn limits() -> TurnLimits {
    settings().limits
}

#[test]
fn a_user_has_so_many_allocations() {
    let mut turn = with_limits(TurnLimits { allocations_per_user: 3, ..limits() });
    let codes: Vec<_> =
        (1..=5).map(|port| turn.allocate(udp(&format!("203.0.113.9:{port}"))).code).collect();
    assert_eq!(codes, [None, None, None, Some(486), Some(486)]);
    let udp_wanted = |writer: &mut turn_server_core::stun::Writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    };
    let others = turn.ask_as(udp("203.0.113.9:9"), BOB, Method::Allocate, udp_wanted);
    assert_eq!(others.code, None);
    turn.ask(udp("203.0.113.9:1"), Method::Refresh, |writer| {
        writer.number(a::LIFETIME, 0);
    });
    assert_eq!(turn.allocate(udp("203.0.113.9:4")).code, None, "one was given back");
    turn.wait(3600);
    assert_eq!(turn.server.allocations(), 0);
    turn.forget_nonces();
    assert_eq!(turn.allocate(udp("203.0.113.9:4")).code, None, "all came back");
}

#[test]
fn a_user_is_the_same_with_newer_credentials() {
    let limits = TurnLimits { allocations_per_user: 1, ..limits() };
    let rest_secrets = vec!["secret".to_owned()];
    let credentials = Credentials { rest_secrets, ..Credentials::default() };
    let settings = Settings { limits, credentials, ..settings() };
    let mut turn = Turn::new(Config { settings, ..config() });
    for (port, later, user, code) in [
        (1, 100, "carol", None),
        (2, 200, "carol", Some(486)),
        (3, 100, "dave", None),
        (4, 100, "", None),
        (5, 200, "", None),
        (6, 200, "", Some(486)),
    ] {
        let made = RestUser { expiry_s: BEGIN_S + later, user }.credentials("secret");
        let account = Account { name: &made.username, password: &made.password };
        let client = udp(&format!("203.0.113.9:{port}"));
        let answer = turn.ask_as(client, account, Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        });
        assert_eq!(answer.code, code, "{user} {port}");
    }
}

#[test]
fn an_address_has_so_many_allocations() {
    let mut turn = with_limits(TurnLimits { allocations_per_address: 2, ..limits() });
    for (remote, code) in [
        ("203.0.113.9:1", None),
        ("203.0.113.9:2", None),
        ("203.0.113.9:3", Some(486)),
        ("203.0.113.8:3", None),
        ("[2001:db8:1:2::1]:1", None),
        ("[2001:db8:1:2:ffff::1]:1", None),
        ("[2001:db8:1:2::9]:1", Some(486)),
        ("[2001:db8:1:3::9]:1", None),
    ] {
        assert_eq!(turn.allocate(udp(remote)).code, code, "{remote}");
    }
}

#[test]
fn the_server_has_so_many_allocations() {
    let mut turn = with_limits(TurnLimits { allocations: 2, ..limits() });
    for (remote, code) in [("203.0.113.1:1", None), ("203.0.113.2:1", None)] {
        assert_eq!(turn.allocate(udp(remote)).code, code);
    }
    assert_eq!(turn.allocate(udp("203.0.113.3:1")).code, Some(508));
}

#[test]
fn relayed_ports_run_out_and_come_back() {
    let mut turn = Turn::new(Config { relay_ports: 50_000..=50_009, ..config() });
    for host in 1..=10 {
        assert_eq!(turn.allocate(udp(&format!("203.0.113.{host}:1"))).code, None);
    }
    assert_eq!(turn.allocate(udp("203.0.113.11:1")).code, Some(508));
    turn.ask(udp("203.0.113.5:1"), Method::Refresh, |writer| {
        writer.number(a::LIFETIME, 0);
    });
    assert_eq!(turn.allocate(udp("203.0.113.11:1")).code, None);
}

#[test]
fn an_allocation_has_so_many_permissions_and_channels() {
    let client = udp("203.0.113.9:1");
    let mut turn = with_limits(TurnLimits { permissions: 3, channels: 2, ..limits() });
    turn.allocate(client);
    assert_eq!(turn.bind(client, 0x4000, "8.8.8.1:1"), None);
    assert_eq!(turn.bind(client, 0x4001, "8.8.8.1:2"), None);
    assert_eq!(turn.bind(client, 0x4002, "8.8.8.1:3"), Some(508));
    assert_eq!(turn.bind(client, 0x4000, "8.8.8.1:1"), None, "a refresh");
    assert_eq!(turn.permit(client, "8.8.8.2:1"), None);
    assert_eq!(turn.permit(client, "8.8.8.3:1"), None);
    assert_eq!(turn.permit(client, "8.8.8.4:1"), Some(508));
    assert_eq!(turn.permit(client, "8.8.8.3:9"), None, "a refresh");
    turn.wait(300);
    assert_eq!(turn.permit(client, "8.8.8.4:1"), None, "the others have ended");
}

#[test]
fn new_peers_come_slowly() {
    let client = udp("203.0.113.9:1");
    let mut turn = with_limits(TurnLimits { new_peers_per_second: 5, ..limits() });
    turn.allocate(client);
    let codes: Vec<_> =
        (0..7).map(|host| turn.permit(client, &format!("8.8.8.{host}:1"))).collect();
    assert_eq!(codes, [None, None, None, None, None, Some(508), Some(508)]);
    assert_eq!(turn.permit(client, "8.8.8.0:1"), None, "it is not new");
    turn.wait(1);
    assert_eq!(turn.permit(client, "8.8.8.6:1"), None);
}

#[test]
fn what_is_too_fast_is_dropped_and_the_allocation_stays() {
    for (limits, sent) in [
        (TurnLimits { packets_per_second: 10, ..limits() }, 10),
        (TurnLimits { bytes_per_second: 500, ..limits() }, 5),
        (limits(), 100),
    ] {
        let client = udp("203.0.113.9:1");
        let mut turn = with_limits(limits);
        turn.allocate(client);
        turn.bind(client, 0x4000, "8.8.8.8:1");
        let relay = turn.relay();
        let data = [0; 100];
        let mut relayed = 0;
        for _ in 0..50 {
            relayed += usize::from(turn.channel_data(client, 0x4000, &data).is_some());
            let to = turn.server.handle_peer(relay, at("8.8.8.8:1"), data.len(), turn.now);
            relayed += usize::from(to.is_some());
        }
        assert_eq!(relayed, sent);
        assert_eq!(turn.server.counters().dropped_for(DropReason::Rate), 100 - sent as u64);
        let other = udp("203.0.113.8:1");
        turn.allocate(other);
        turn.bind(other, 0x4000, "8.8.8.8:1");
        assert!(turn.channel_data(other, 0x4000, &data).is_some(), "others go on");
        turn.wait(1);
        assert!(turn.channel_data(client, 0x4000, &data).is_some(), "a second later");
    }
}

#[test]
fn one_source_is_challenged_so_often() {
    let mut turn = with_limits(TurnLimits { challenges_per_second: 20, ..limits() });
    let ask = |turn: &mut Turn, remote: &str| {
        let mut writer = turn.begin(Method::Allocate);
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let bytes = writer.finish(None, false);
        turn.exchange(udp(remote), &bytes).is_some()
    };
    let answered = (1..=100).filter(|port| ask(&mut turn, &format!("203.0.113.9:{port}"))).count();
    assert_eq!(answered, 20);
    assert_eq!(turn.server.counters().dropped_for(DropReason::ChallengeBudget), 80);
    assert!(ask(&mut turn, "203.0.113.8:1"), "another source");
    turn.wait(1);
    assert!(ask(&mut turn, "203.0.113.9:1"), "a second later");
    // An address that a connection proves is not held up, and neither is who is authentic.
    for port in 1..=100 {
        let mut writer = turn.begin(Method::Allocate);
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        let bytes = writer.finish(None, false);
        assert!(turn.exchange(tcp(&format!("203.0.113.9:{port}")), &bytes).is_some(), "{port}");
    }
    let client = udp("203.0.113.77:1");
    turn.allocate(client);
    for _ in 0..100 {
        assert_eq!(turn.ask(client, Method::Refresh, |_| {}).code, None);
    }
}
