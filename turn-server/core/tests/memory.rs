//! What the server takes from the heap: nothing per packet, little per allocation, nothing per
//! stranger.

#![allow(clippy::unwrap_used, reason = "a test's helpers may fail it")]

#[path = "server/harness.rs"]
#[allow(dead_code)]
mod harness;

use allocation_counter::measure;
use contract::turn_config::TurnLimits;
use turn_server_core::api::{ClientAction, Config, Settings};
use turn_server_core::stun::{Class, Method, Writer, attribute as a};

use harness::{Turn, at, config, settings, udp};

const CLIENTS: u16 = 600;
const BYTES_PER_ALLOCATION: i64 = 4096;

#[test]
fn packets_and_strangers_are_free_and_allocations_small() {
    let limits = TurnLimits {
        allocations_per_user: 10_000,
        allocations_per_address: 10_000,
        packets_per_second: 1_000_000,
        bytes_per_second: 1_000_000_000,
        ..settings().limits
    };
    let settings = Settings { limits, ..settings() };
    let mut turn = Turn::new(Config { settings, ..config() });

    // A client with a channel and two more permissions, as a conference has.
    let client = |port: u16| udp(&format!("203.0.113.9:{port}"));
    turn.nonce(client(1));
    let taken = measure(|| {
        for port in 1..=CLIENTS {
            assert_eq!(turn.allocate(client(port)).code, None);
            assert_eq!(turn.bind(client(port), 0x4000, "8.8.8.8:1"), None);
            assert_eq!(turn.permit(client(port), "9.9.9.9:1"), None);
            turn.sent.clear();
        }
        turn.sent.shrink_to_fit();
    });
    let each = taken.bytes_current / i64::from(CLIENTS);
    assert!(each <= BYTES_PER_ALLOCATION, "{each} bytes an allocation");

    // Both ways, by channel and by indication.
    let relay = *turn.relays.keys().next().unwrap();
    let channel = [&[0x40, 0, 4, 0][..], &[1; 1024]].concat();
    let mut writer = Writer::new(Class::Indication, Method::Send, [5; 12]);
    writer.xor_address(a::XOR_PEER_ADDRESS, at("9.9.9.9:7")).attribute(a::DATA, &[1; 1024]);
    let send = writer.finish(None, false);
    let (to_channel, to_other) = (at("8.8.8.8:1"), at("9.9.9.9:1"));
    let first = client(1);
    let taken = measure(|| {
        for _ in 0..1000 {
            for packet in [&channel, &send] {
                let action = turn.server.handle_client(first, packet, turn.now);
                assert!(matches!(action, ClientAction::Relay { .. }));
            }
            for peer in [to_channel, to_other] {
                assert!(turn.server.handle_peer(relay, peer, 1024, turn.now).is_some());
            }
            // What is dropped costs no memory either.
            turn.server.handle_client(first, &[0x40, 9, 0, 0], turn.now);
            turn.server.handle_peer(relay, at("7.7.7.7:1"), 1024, turn.now);
        }
    });
    assert_eq!(taken.count_total, 0, "calls of the allocator for 4,000 packets");

    // Strangers: only the answers, which are gone when they are sent.
    let mut writer = turn.begin(Method::Allocate);
    writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
    let request = writer.finish(None, false);
    let taken = measure(|| {
        for source in 0..100_000_u32 {
            let [_, b, c, d] = source.to_be_bytes();
            let stranger = udp(&format!("11.{b}.{c}.{d}:{}", 1024 + source % 60_000));
            turn.server.handle_client(stranger, &request, turn.now);
            while turn.server.poll_command().is_some() {}
        }
    });
    assert_eq!(taken.bytes_current, 0, "bytes kept for 100,000 strangers");
}
