//! Random clients, peers and noise: nothing panics, bounds hold, and in the end nothing is left.

use std::net::SocketAddr;

use contract::turn_config::TurnLimits;
use proptest::prelude::*;
use turn_server_core::api::{
    BindError, Client, Command, Config, ConnectError, Icmp, RelayId, Settings,
};
use turn_server_core::stun::{Method, Writer, attribute as a};

use crate::harness::{ALICE, Account, BOB, Turn, at, config, settings, tcp, udp};

#[derive(Debug, Clone)]
enum Step {
    Request { client: usize, user: usize, method: u8, attributes: Vec<(u8, u16)> },
    Noise { client: usize, bytes: Vec<u8> },
    Cut { client: usize, method: u8, at: usize, flip: u8 },
    Channel { client: usize, number: u16, length: usize },
    Send { client: usize, peer: usize },
    Peer { relay: usize, peer: usize, length: usize },
    Icmp { relay: usize, peer: usize },
    Accepted { relay: usize, peer: usize },
    ClientGone { client: usize },
    Connected { is_good: bool },
    Wait { seconds: u64 },
    Busy { kind: u8 },
    Update { opens: bool },
}

const PEERS: [&str; 5] = ["8.8.8.8:1", "8.8.8.8:2", "9.9.9.9:1", "127.0.0.1:1", "[2606:4700::1]:7"];

fn clients() -> [Client; 5] {
    [
        udp("203.0.113.1:1"),
        udp("203.0.113.1:2"),
        udp("[2001:db8:7::1]:1"),
        tcp("203.0.113.2:1"),
        tcp("203.0.113.2:2"),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = || 0..5_usize;
    let peer = || 0..PEERS.len();
    let attributes = prop::collection::vec((0..14_u8, 0..4_u16), 0..6);
    let step = prop_oneof![
        8 => (client(), 0..3_usize, 0..7_u8, attributes).prop_map(
            |(client, user, method, attributes)| Step::Request { client, user, method, attributes }
        ),
        1 => (client(), prop::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(client, bytes)| Step::Noise { client, bytes }),
        2 => (client(), 0..7_u8, 0..120_usize, any::<u8>())
            .prop_map(|(client, method, at, flip)| Step::Cut { client, method, at, flip }),
        2 => (client(), 0x3fff..0x4004_u16, 0..2000_usize)
            .prop_map(|(client, number, length)| Step::Channel { client, number, length }),
        2 => (client(), peer()).prop_map(|(client, peer)| Step::Send { client, peer }),
        2 => (0..4_usize, peer(), 0..65_536_usize)
            .prop_map(|(relay, peer, length)| Step::Peer { relay, peer, length }),
        1 => (0..4_usize, peer()).prop_map(|(relay, peer)| Step::Icmp { relay, peer }),
        1 => (0..4_usize, peer()).prop_map(|(relay, peer)| Step::Accepted { relay, peer }),
        1 => client().prop_map(|client| Step::ClientGone { client }),
        1 => any::<bool>().prop_map(|is_good| Step::Connected { is_good }),
        1 => (0..700_u64).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0..3_u8).prop_map(|kind| Step::Busy { kind }),
        1 => any::<bool>().prop_map(|opens| Step::Update { opens }),
    ];
    prop::collection::vec(step, 1..60)
}

fn method(number: u8) -> Method {
    [
        Method::Allocate,
        Method::Allocate,
        Method::Refresh,
        Method::CreatePermission,
        Method::ChannelBind,
        Method::Connect,
        Method::ConnectionBind,
    ][usize::from(number)]
}

fn add(writer: &mut Writer, kind: u8, value: u16) {
    let small = value as u8;
    let peer = at(PEERS[usize::from(value) % PEERS.len()]);
    match kind {
        0..=2 => writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]),
        3 => writer.attribute(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0]),
        4 => writer.attribute(a::REQUESTED_ADDRESS_FAMILY, &[small, 0, 0, 0]),
        5 => writer.attribute(a::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
        6 => writer.attribute(a::EVEN_PORT, &[small << 7]),
        7 => writer.number(a::LIFETIME, u32::from(value) * 900),
        8 => writer.attribute(a::RESERVATION_TOKEN, &[small; 8]),
        9 => writer.number(a::CHANNEL_NUMBER, (0x3fff + u32::from(value)) << 16),
        10..=11 => writer.xor_address(a::XOR_PEER_ADDRESS, peer),
        12 => writer.number(a::CONNECTION_ID, u32::from(value)),
        _ => writer.attribute(0x0040 + value, b"odd"),
    };
}

const LIMITS: TurnLimits = TurnLimits {
    allocations: 4,
    allocations_per_user: 3,
    allocations_per_address: 3,
    permissions: 2,
    channels: 2,
    new_peers_per_second: 3,
    bytes_per_second: 50_000,
    packets_per_second: 100,
    challenges_per_second: 100_000,
    connections: 1,
    connections_per_address: 1,
    handshakes: 1,
    connection_setup_s: 1,
    connection_queue_bytes: 1,
};

fn relay(turn: &Turn, index: usize) -> Option<RelayId> {
    let mut open: Vec<(RelayId, SocketAddr)> =
        turn.relays.iter().map(|(id, address)| (*id, *address)).collect();
    open.sort_by_key(|(id, _)| id.slot());
    open.get(index).map(|(id, _)| *id)
}

/// Gives a request with a changed byte, and its beginning alone.
fn cut(turn: &mut Turn, client: Client, number: u8, at: usize, flip: u8) {
    let mut bytes = turn.signed(client, ALICE, method(number), |writer| {
        add(writer, 0, 0);
        add(writer, 9, 1);
        add(writer, 10, 0);
    });
    let index = at % bytes.len();
    bytes[index] ^= flip;
    turn.give(client, &bytes);
    turn.give(client, &bytes[..index]);
}

fn take(turn: &mut Turn, step: Step) {
    let now = turn.now;
    match step {
        Step::Request { client, user, method: number, attributes } => {
            let unknown = Account { name: "nobody", password: "x" };
            let account = [ALICE, BOB, unknown][user];
            let client = clients()[client];
            let bytes = turn.signed(client, account, method(number), |writer| {
                attributes.iter().for_each(|(kind, value)| add(writer, *kind, *value));
            });
            turn.give(client, &bytes);
        }
        Step::Noise { client, bytes } => {
            turn.give(clients()[client], &bytes);
        }
        Step::Cut { client, method: number, at, flip } => {
            cut(turn, clients()[client], number, at, flip);
        }
        Step::Channel { client, number, length } => {
            turn.channel_data(clients()[client], number, &vec![0; length]);
        }
        Step::Send { client, peer } => {
            turn.send(clients()[client], PEERS[peer], b"data");
        }
        Step::Peer { relay: index, peer, length } => {
            if let Some(id) = relay(turn, index) {
                turn.server.handle_peer(id, at(PEERS[peer]), length, now);
            }
        }
        Step::Icmp { relay: index, peer } => {
            if let Some(id) = relay(turn, index) {
                let icmp = Icmp { kind: 3, code: 3, data: 0 };
                turn.server.handle_icmp(id, at(PEERS[peer]), icmp, now);
            }
        }
        Step::Accepted { relay: index, peer } => {
            if let Some(id) = relay(turn, index) {
                turn.server.accepted(id, at(PEERS[peer]), now);
            }
        }
        Step::ClientGone { client } => turn.server.client_closed(clients()[client]),
        Step::Connected { is_good } => {
            for command in std::mem::take(&mut turn.commands) {
                if let Command::Connect { connection, .. } = command {
                    let result = if is_good { Ok(()) } else { Err(ConnectError::Unreachable) };
                    turn.server.connected(connection, result, now);
                }
            }
        }
        Step::Wait { seconds } => turn.wait(seconds),
        Step::Busy { kind } => {
            turn.busy = match kind {
                0 => |_| None,
                1 => |address| (address.port() % 2 == 0).then_some(BindError::AddressInUse),
                _ => |_| Some(BindError::Failed),
            }
        }
        Step::Update { opens } => {
            let mut settings = Settings { limits: LIMITS, ..settings() };
            if !opens {
                settings.peers.allow.clear();
            }
            turn.server.update(settings);
        }
    }
    turn.run();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_server_survives_everybody(steps in steps()) {
        let settings = Settings { limits: LIMITS, ..settings() };
        let relay_ports = 50_000..=50_005;
        let mut turn = Turn::new(Config { settings, relay_ports, ..config() });
        for step in steps {
            take(&mut turn, step);
            prop_assert!(turn.server.allocations() <= 4);
            prop_assert!(turn.relays.len() <= 8);
            prop_assert_eq!(turn.server.counters().allocations, turn.server.allocations() as u64);
            for address in turn.relays.values() {
                prop_assert!((50_000..=50_005).contains(&address.port()));
            }
        }
        turn.wait(3700);
        prop_assert_eq!(turn.server.allocations(), 0);
        prop_assert!(turn.relays.is_empty());
        prop_assert_eq!(turn.server.poll_timeout(), None);
        // Every port and every place came back.
        turn.busy = |_| None;
        turn.forget_nonces();
        for (index, client) in clients().into_iter().enumerate() {
            let account = if index < 2 { ALICE } else { BOB };
            let answer = turn.ask_as(client, account, Method::Allocate, |writer| {
                writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            });
            prop_assert_eq!(answer.code.is_none(), index < 4);
        }
    }
}
