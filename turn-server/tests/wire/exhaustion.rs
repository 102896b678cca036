//! A kernel that takes no more: what it refuses is lost and counted, and everybody goes on.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use contract::turn_config::{Network, PeerRule};

use crate::client::{Client, Peer, udp};
use crate::server::{Server, until};
use crate::silence::in_namespace;

/// The server's end of a wire, at whose other end packets are counted and nobody is.
const WIRE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// A peer there, whose hardware address is known.
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// A peer there, whose hardware address nobody tells: packets wait for it.
const SILENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const DROPPED: &str = "livecluster_turn_dropped_total{reason=\"not_taken\"}";

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Runs a test with a server of one worker that has a wire in a network namespace of its own.
fn on_a_wire(test: impl FnOnce(&Server) + Send + 'static) {
    in_namespace(|| {
        for command in [
            "ip link add wire0 type veth peer name wire1",
            "ip address add 10.99.0.1/24 dev wire0",
            "ip link set wire0 up",
            "ip link set wire1 up",
            "ip neighbour add 10.99.0.2 lladdr 02:00:00:00:00:02 dev wire0 nud permanent",
        ] {
            run(command);
        }
        let server = Server::start(|config, _| {
            config.workers = 1;
            config.relay.addresses[0].bind = WIRE.into();
            let network = Network { address: Ipv4Addr::new(10, 99, 0, 0).into(), prefix: 24 };
            config.peers.allow.push(PeerRule { network, ports: None });
        });
        test(&server);
    });
}

/// Packets that came to the other end.
fn arrived() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("wire1:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn allocated(server: &Server, peers: &[(u16, SocketAddr)]) -> Client {
    let mut client = udp(server);
    client.allocated();
    for (channel, peer) in peers {
        assert_eq!(client.bind(*channel, *peer), None);
    }
    client
}

fn until_it_arrives(client: &mut Client, channel: u16) {
    let before = arrived();
    until("the peer gets something", || {
        client.send_channel(channel, b"again");
        arrived() > before
    });
}

#[test]
fn a_device_that_takes_no_more_costs_packets_and_no_allocation() {
    on_a_wire(|server| {
        let peers = [(0x4000, (NEAR, 9).into()), (0x4001, Peer::echo())];
        let mut client = allocated(server, &peers);
        until_it_arrives(&mut client, 0x4000);
        // Every send now ends with ENOBUFS.
        run("tc qdisc add dev wire0 root pfifo limit 0");
        let (before, lost) = (arrived(), server.metric(DROPPED));
        for _ in 0..20 {
            client.send_channel(0x4000, b"refused");
        }
        server.await_metric(DROPPED, |count| count >= lost + 20);
        assert_eq!(arrived(), before);
        client.assert_relays(0x4001);
        run("tc qdisc del dev wire0 root");
        until_it_arrives(&mut client, 0x4000);
        client.assert_relays(0x4001);
    });
}

#[test]
fn a_full_send_buffer_is_that_of_one_allocation() {
    on_a_wire(|server| {
        // What waits for the hardware address fills the relay's buffer instead of being dropped.
        for (name, value) in [("unres_qlen_bytes", "100000000"), ("retrans_time_ms", "60000")] {
            std::fs::write(format!("/proc/sys/net/ipv4/neigh/wire0/{name}"), value).unwrap();
        }
        let near = (0x4000, (NEAR, 9).into());
        let mut other = allocated(server, &[near, (0x4001, Peer::echo())]);
        let mut client = allocated(server, &[near, (0x4001, (SILENT, 9).into())]);
        // Until sends end with EAGAIN.
        until("the buffer is full", || {
            for _ in 0..100 {
                client.send_channel(0x4001, &[7; 1000]);
            }
            server.metric(DROPPED) > 100
        });
        other.assert_relays(0x4001);
        until_it_arrives(&mut other, 0x4000);
        run("ip neighbour replace 10.99.0.3 lladdr 02:00:00:00:00:03 dev wire0 nud permanent");
        until_it_arrives(&mut client, 0x4001);
        until_it_arrives(&mut client, 0x4000);
    });
}
