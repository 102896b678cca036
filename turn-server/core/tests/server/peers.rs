//! Which peers may be sent to: policy, permissions, channels. Whatever is refused, nothing leaves.

use contract::turn_config::{MediaPeer, PeerPorts, PeerRule};
use turn_server_core::api::{Client, Config, PeerPolicy, Settings};
use turn_server_core::stun::{Method, Writer, attribute as a};

use crate::harness::{Turn, at, config, ip, network, rule, settings, tcp, udp};

fn client() -> Client {
    udp("203.0.113.9:1")
}

fn with_peers(change: impl FnOnce(&mut PeerPolicy)) -> Turn {
    let mut settings = settings();
    change(&mut settings.peers);
    Turn::new(Config { settings, ..config() })
}

/// An allocation of both families.
fn allocate_both(turn: &mut Turn) {
    let answer = turn.ask(client(), Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        writer.attribute(a::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    assert_eq!(answer.code, None);
}

/// Asserts that a peer is refused in every way that there is, and that nothing leaves.
fn assert_refused(turn: &mut Turn, peer: &str) {
    assert_eq!(turn.permit(client(), peer), Some(403), "{peer}");
    assert_eq!(turn.bind(client(), 0x4001, peer), Some(403), "{peer}");
    assert_eq!(turn.send(client(), peer, b"x"), None, "{peer}");
    assert_eq!(turn.channel_data(client(), 0x4001, b"x"), None, "{peer}");
    let stream = tcp("203.0.113.9:1");
    let family = if at(peer).is_ipv4() { 1 } else { 2 };
    if !turn.server.has_allocation(stream) || turn.server.allocations() < 3 {
        let remote = tcp(if family == 1 { "203.0.113.9:1" } else { "203.0.113.9:2" });
        turn.ask(remote, Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
            writer.attribute(a::REQUESTED_ADDRESS_FAMILY, &[family, 0, 0, 0]);
        });
        let answer = turn.ask(remote, Method::Connect, |writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, at(peer));
        });
        assert_eq!(answer.code, Some(403), "{peer}");
        assert!(turn.commands.is_empty(), "{peer}");
    }
}

/// Addresses that no rule for everybody opens.
const CLOSED: [&str; 36] = [
    "0.0.0.0:80",
    "0.1.2.3:80",
    "10.0.0.1:80",
    "100.64.0.1:80",
    "127.0.0.1:80",
    "127.255.255.254:80",
    "169.254.169.254:80",
    "172.16.0.1:80",
    "172.31.255.255:80",
    "192.0.0.1:80",
    "192.0.2.77:80",
    "192.168.0.1:80",
    "198.18.0.1:80",
    "198.51.100.9:80",
    "203.0.113.1:80",
    "224.0.0.1:80",
    "239.255.255.250:1900",
    "240.0.0.1:80",
    "255.255.255.255:80",
    "[::]:80",
    "[::1]:80",
    "[::127.0.0.1]:80",
    "[::8.8.8.8]:80",
    "[::ffff:127.0.0.1]:80",
    "[::ffff:0.0.0.0]:80",
    "[::ffff:10.0.0.1]:80",
    "[::ffff:8.8.8.8]:80",
    "[64:ff9b::7f00:1]:80",
    "[64:ff9b::a9fe:a9fe]:80",
    "[64:ff9b:1::a00:1]:80",
    "[2002:7f00:1::]:80",
    "[2002:a00:1::1]:80",
    "[fd00:ec2::254]:80",
    "[fe80::1]:80",
    "[ff02::1]:80",
    "[2001:db8::77]:80",
];

#[test]
fn special_addresses_are_closed_to_rules_for_everybody() {
    for peer in CLOSED {
        let mut turn = Turn::default_peers();
        allocate_both(&mut turn);
        assert_refused(&mut turn, peer);
    }
}

#[test]
fn without_rules_everything_is_closed() {
    for peer in CLOSED.into_iter().chain(["8.8.8.8:53", "[2606:4700::1]:53"]) {
        let mut turn = with_peers(|peers| peers.allow.clear());
        allocate_both(&mut turn);
        assert_refused(&mut turn, peer);
    }
}

#[test]
fn rules_within_a_special_network_open_it_and_denials_close() {
    let ports = Some(PeerPorts { first: 7000, last: 7009 });
    let policy = |peers: &mut PeerPolicy| {
        peers.allow = vec![
            rule("10.1.0.0/16"),
            rule("127.0.0.1"),
            rule("8.0.0.0/8"),
            PeerRule { network: network("9.9.9.0/24"), ports },
            rule("64.0.0.0/8"),
        ];
        peers.deny = vec![network("8.8.0.0/16"), network("10.1.2.3")];
    };
    for (peer, opens) in [
        ("10.1.9.9:1", true),
        ("10.2.0.0:1", false),
        ("10.1.2.3:1", false),
        ("127.0.0.1:1", true),
        ("127.0.0.2:1", false),
        ("8.7.6.5:1", true),
        ("8.8.8.8:1", false),
        ("9.9.9.9:7000", true),
        ("9.9.9.9:7009", true),
        ("9.9.9.9:7010", false),
        ("9.9.9.9:6999", false),
        ("8.7.6.5:0", false),
        ("1.1.1.1:1", false),
    ] {
        let mut turn = with_peers(policy);
        allocate_both(&mut turn);
        let code = if opens { None } else { Some(403) };
        assert_eq!(turn.bind(client(), 0x4000, peer), code, "{peer}");
        let expected = opens.then(|| at(peer));
        assert_eq!(turn.channel_data(client(), 0x4000, b"x"), expected, "{peer}");
    }
}

#[test]
fn ports_of_this_server_are_never_peers() {
    let policy = |peers: &mut PeerPolicy| peers.allow = vec![rule("192.0.2.1"), rule("8.0.0.0/8")];
    for peer in ["192.0.2.1:3478", "192.0.2.1:9601", "192.0.2.1:50000", "8.1.1.1:50999"] {
        let mut turn = with_peers(policy);
        allocate_both(&mut turn);
        assert_refused(&mut turn, peer);
    }
    let mut turn = with_peers(policy);
    allocate_both(&mut turn);
    assert_eq!(turn.bind(client(), 0x4000, "192.0.2.1:20000"), None);
    // A permission is for the address: its closed ports stay closed.
    assert_eq!(turn.send(client(), "192.0.2.1:3478", b"x"), None);
    assert!(turn.send(client(), "192.0.2.1:20001", b"x").is_some());
}

#[test]
fn relays_of_this_server_are_peers_where_that_is_wanted() {
    let mut turn = with_peers(|peers| {
        (peers.allow, peers.relay_ports) = (vec![rule("192.0.2.1")], None);
    });
    turn.allocate(client());
    assert_eq!(turn.bind(client(), 0x4000, "192.0.2.1:50000"), None);
    assert_eq!(turn.bind(client(), 0x4001, "192.0.2.1:3478"), Some(403), "never a listener");
}

fn media(local: &str, ports: &[u16]) -> MediaPeer {
    MediaPeer { advertised: ip("203.0.113.50"), local: ip(local), ports: ports.to_vec() }
}

#[test]
fn media_nodes_are_reached_behind_the_address_that_they_advertise() {
    let mut turn = with_peers(|peers| {
        peers.allow.clear();
        peers.media = vec![media("10.1.2.3", &[20_000, 20_001])];
    });
    turn.allocate(client());
    let relay = turn.relay();
    assert_eq!(turn.permit(client(), "203.0.113.50:1"), None);
    assert_eq!(turn.send(client(), "203.0.113.50:20000", b"x"), Some(at("10.1.2.3:20000")));
    assert_eq!(turn.send(client(), "203.0.113.50:20002", b"x"), None, "not a media port");
    assert_eq!(turn.bind(client(), 0x4000, "203.0.113.50:20002"), Some(403));
    assert_eq!(turn.permit(client(), "10.1.2.3:20000"), Some(403), "its own address is no peer");

    let to = turn.server.handle_peer(relay, at("10.1.2.3:20000"), 4, turn.now).unwrap();
    let mut message = to.header().to_vec();
    message.extend_from_slice(b"data");
    let indication = turn_server_core::stun::Message::parse(&message).unwrap();
    assert_eq!(indication.peer, Some(at("203.0.113.50:20000")), "as the client knows it");
    assert_eq!(turn.server.handle_peer(relay, at("10.1.2.4:20000"), 4, turn.now), None);

    assert_eq!(turn.bind(client(), 0x4000, "203.0.113.50:20001"), None);
    assert_eq!(turn.channel_data(client(), 0x4000, b"x"), Some(at("10.1.2.3:20001")));
}

#[test]
fn media_nodes_of_one_machine_share_the_address_that_they_advertise() {
    let mut turn = with_peers(|peers| {
        peers.allow.clear();
        peers.media = vec![media("10.1.2.3", &[20_000]), media("10.1.2.4", &[20_003])];
    });
    turn.allocate(client());
    let relay = turn.relay();
    assert_eq!(turn.permit(client(), "203.0.113.50:20003"), None);
    for (peer, local) in
        [("203.0.113.50:20000", "10.1.2.3:20000"), ("203.0.113.50:20003", "10.1.2.4:20003")]
    {
        assert_eq!(turn.send(client(), peer, b"x"), Some(at(local)));
        let to = turn.server.handle_peer(relay, at(local), 4, turn.now).unwrap();
        let mut message = to.header().to_vec();
        message.extend_from_slice(b"data");
        let indication = turn_server_core::stun::Message::parse(&message).unwrap();
        assert_eq!(indication.peer, Some(at(peer)), "as the client knows it");
    }
    assert_eq!(turn.bind(client(), 0x4000, "203.0.113.50:20000"), None);
    assert_eq!(turn.channel_data(client(), 0x4000, b"x"), Some(at("10.1.2.3:20000")));
    let to = turn.server.handle_peer(relay, at("10.1.2.4:20003"), 4, turn.now).unwrap();
    assert!(to.header().len() > 4, "the channel is the other node's");
}

#[test]
fn a_changed_policy_holds_for_what_exists() {
    let settings_with = |media: Vec<MediaPeer>| {
        let settings = settings();
        let peers = PeerPolicy { allow: Vec::new(), media, ..settings.peers };
        Settings { peers, ..settings }
    };
    let first = settings_with(vec![media("10.1.2.3", &[20_000])]);
    let mut turn = Turn::new(Config { settings: first.clone(), ..config() });
    turn.allocate(client());
    assert_eq!(turn.bind(client(), 0x4000, "203.0.113.50:20000"), None);
    let relay = turn.relay();
    turn.server.update(settings_with(vec![media("10.1.2.4", &[20_000])]));
    assert_eq!(turn.channel_data(client(), 0x4000, b"x"), Some(at("10.1.2.4:20000")), "moved");
    turn.server.update(settings_with(Vec::new()));
    assert_eq!(turn.channel_data(client(), 0x4000, b"x"), None);
    assert_eq!(turn.send(client(), "203.0.113.50:20000", b"x"), None);
    assert_eq!(turn.server.handle_peer(relay, at("10.1.2.3:20000"), 4, turn.now), None);
    turn.server.update(first);
    assert!(turn.channel_data(client(), 0x4000, b"x").is_some());
}

#[test]
fn a_request_permits_all_its_peers_or_none() {
    let ask = |turn: &mut Turn, peers: &[&str]| {
        turn.ask(client(), Method::CreatePermission, |writer: &mut Writer| {
            for peer in peers {
                writer.xor_address(a::XOR_PEER_ADDRESS, at(peer));
            }
        })
        .code
    };
    let mut turn = Turn::default_peers();
    turn.allocate(client());
    assert_eq!(ask(&mut turn, &["8.8.8.8:1", "127.0.0.1:1"]), Some(403));
    assert_eq!(ask(&mut turn, &["8.8.8.8:1", "[2606:4700::1]:1"]), Some(443));
    assert_eq!(turn.send(client(), "8.8.8.8:1", b"x"), None);
    assert_eq!(ask(&mut turn, &[]), Some(400));
    assert_eq!(ask(&mut turn, &["8.8.8.8:1", "9.9.9.9:1"]), None);
    assert!(turn.send(client(), "8.8.8.8:1", b"x").is_some());
    assert!(turn.send(client(), "9.9.9.9:1", b"x").is_some());
}

#[test]
fn other_families_and_forms_of_peers_are_refused() {
    let mut turn = Turn::default_peers();
    turn.allocate(client());
    for peer in ["[2606:4700::1]:1", "[::ffff:8.8.8.8]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(turn.permit(client(), peer), Some(443), "{peer}");
        assert_eq!(turn.bind(client(), 0x4000, peer), Some(443), "{peer}");
        assert_eq!(turn.send(client(), peer, b"x"), None, "{peer}");
    }
    for value in [&[0, 3, 0, 0, 0, 0, 0, 0][..], &[0, 1, 0, 0], &[], &[0, 2, 0, 0, 0, 0, 0, 0]] {
        for method in [Method::CreatePermission, Method::ChannelBind] {
            let answer = turn.ask(client(), method, |writer| {
                writer.attribute(a::XOR_PEER_ADDRESS, value);
                writer.number(a::CHANNEL_NUMBER, 0x4000_0000);
            });
            assert_eq!(answer.code, Some(400), "{value:?}");
        }
    }
}

#[test]
fn a_permission_is_for_an_address_and_five_minutes() {
    let mut turn = Turn::default_peers();
    turn.ask(client(), Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).number(a::LIFETIME, 3600);
    });
    let relay = turn.relay();
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    turn.wait(299);
    assert!(turn.send(client(), "8.8.8.8:65535", b"x").is_some());
    assert!(turn.server.handle_peer(relay, at("8.8.8.8:2"), 1, turn.now).is_some());
    assert!(turn.server.handle_peer(relay, at("8.8.8.9:1"), 1, turn.now).is_none());
    turn.wait(1);
    assert_eq!(turn.send(client(), "8.8.8.8:1", b"x"), None);
    assert!(turn.server.handle_peer(relay, at("8.8.8.8:1"), 1, turn.now).is_none());
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None);
    turn.wait(200);
    assert_eq!(turn.permit(client(), "8.8.8.8:1"), None, "again");
    turn.wait(200);
    assert!(turn.send(client(), "8.8.8.8:1", b"x").is_some());
}

#[test]
fn channels_have_the_numbers_of_rfc_8656() {
    let mut turn = Turn::default_peers();
    turn.allocate(client());
    for (number, code) in [
        (0x3fff, Some(400)),
        (0x4000, None),
        (0x4fff, None),
        (0x5000, Some(400)),
        (0x7fff, Some(400)),
        (0x8000, Some(400)),
        (0xffff, Some(400)),
        (0, Some(400)),
    ] {
        let peer = format!("8.8.8.8:{}", 1 + number / 2);
        assert_eq!(turn.bind(client(), number, &peer), code, "{number:#x}");
        assert_eq!(turn.channel_data(client(), number, b"x").is_some(), code.is_none());
    }
    let answer = turn.ask(client(), Method::ChannelBind, |writer| {
        writer.number(a::CHANNEL_NUMBER, 0x4001_0000);
    });
    assert_eq!(answer.code, Some(400), "no peer");
    let answer = turn.ask(client(), Method::ChannelBind, |writer| {
        writer.xor_address(a::XOR_PEER_ADDRESS, at("8.8.8.8:77"));
    });
    assert_eq!(answer.code, Some(400), "no number");
}

#[test]
fn a_channel_and_its_peer_belong_together_until_five_minutes_after() {
    let mut turn = Turn::default_peers();
    let answer = turn.ask(client(), Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).number(a::LIFETIME, 3600);
    });
    assert_eq!(answer.code, None);
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None);
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None, "a refresh");
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:2"), Some(400));
    assert_eq!(turn.bind(client(), 0x4001, "8.8.8.8:1"), Some(400));
    turn.wait(599);
    assert!(turn.channel_data(client(), 0x4000, b"x").is_some());
    turn.wait(1);
    assert_eq!(turn.channel_data(client(), 0x4000, b"x"), None);
    turn.wait(299);
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:2"), Some(400), "it rests");
    turn.wait(1);
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:2"), None);
    assert_eq!(turn.bind(client(), 0x4001, "8.8.8.8:1"), None);
}

#[test]
fn a_channel_brings_its_permission() {
    let mut turn = Turn::default_peers();
    turn.allocate(client());
    let relay = turn.relay();
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None);
    assert!(turn.send(client(), "8.8.8.8:9", b"x").is_some());
    turn.wait(300);
    assert!(turn.channel_data(client(), 0x4000, b"x").is_some(), "a channel lasts longer");
    let from_peer = |turn: &mut Turn| turn.server.handle_peer(relay, at("8.8.8.8:1"), 1, turn.now);
    assert_eq!(from_peer(&mut turn), None, "but peers need the permission");
    assert_eq!(turn.bind(client(), 0x4000, "8.8.8.8:1"), None);
    assert!(from_peer(&mut turn).is_some());
}
