//! A client works over every transport.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;

use contract::turn_config::{ListenConfig, PeerRule, RelayAddressConfig};
use turn_server_core::stun::{Class, Method, attribute as a};

use crate::client::{Client, Peer, dtls, over, parse, tcp, tls, tls_over, udp, udp_from};
use crate::server::Server;
use crate::silence::in_namespace;

fn assert_works(mut client: Client) {
    let echo = Peer::echo();
    let relayed = client.allocated();
    assert_eq!(client.bind(0x4000, echo), None);
    client.assert_relays(0x4000);

    // A peer that has no channel: indications both ways.
    let peer = Peer::new();
    assert_eq!(client.permit(peer.address()), None);
    client.send_indication(peer.address(), b"to the peer", false);
    assert_eq!(peer.receive(), Some((b"to the peer".to_vec(), relayed)));
    peer.0.send_to(b"odd", relayed).unwrap();
    let bytes = client.receive().unwrap();
    let indication = parse(&bytes);
    assert_eq!((indication.class, indication.method), (Class::Indication, Method::Data));
    assert_eq!(indication.peer, Some(peer.address()));
    assert_eq!(&bytes[indication.data.unwrap()], b"odd");
    assert_eq!(client.refresh(0), None);
    peer.0.send_to(b"too late", relayed).unwrap();
    client.assert_silent();
}

#[test]
fn udp_works() {
    assert_works(udp(&Server::plain()));
}

#[test]
fn tcp_works() {
    assert_works(tcp(&Server::plain()));
}

#[test]
fn tls_works_in_both_versions() {
    let server = Server::secure(|_, _| {});
    assert_works(tls(&server));
    for version in rustls::ALL_VERSIONS {
        let stream = TcpStream::connect(server.tls()).unwrap();
        assert_works(tls_over(stream, &[version]).0);
    }
}

#[test]
fn dtls_works() {
    assert_works(dtls(&Server::secure(|_, _| {})));
}

#[test]
fn both_families_share_a_port_on_all_addresses_as_in_a_pod() {
    in_namespace(|| {
        let _server = Server::start(|config, _| {
            let both = ["0.0.0.0:3478", "[::]:3478"].map(|address| address.parse().unwrap());
            config.listen.udp = both.to_vec();
            config.listen.tcp = both.to_vec();
        });
        for (from, to) in [("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.9.9.9"), ("::1", "::1")] {
            let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let server = SocketAddr::new(to, 3478);
            assert_works(udp_from(from, server));
            assert_works(over(TcpStream::connect(server).unwrap()));
        }
    });
}

#[test]
fn ipv6_works() {
    let server = Server::start(|config, _| {
        let loopback = "::1".parse().unwrap();
        config.listen.udp.push("[::1]:0".parse().unwrap());
        let address = RelayAddressConfig { bind: loopback, advertise: None };
        config.relay.addresses.push(address);
        config.peers.allow.push(PeerRule { network: "::1".parse().unwrap(), ports: None });
    });
    let mut client = udp(&server);
    let answer = client.ask(Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        writer.attribute(a::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    });
    let relayed = answer.address(a::XOR_RELAYED_ADDRESS);
    let peer = std::net::UdpSocket::bind("[::1]:0").unwrap();
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    client.send_channel(0x4000, b"six");
    let mut buffer = [0; 9];
    let (length, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"six"[..], relayed));
    peer.send_to(b"back", relayed).unwrap();
    assert_eq!(client.receive_channel(), (0x4000, b"back".to_vec()));
}

#[test]
fn ipv6_alone_works() {
    in_namespace(|| {
        let status =
            Command::new("ip").args(["address", "del", "127.0.0.1/8", "dev", "lo"]).status();
        assert!(status.unwrap().success());
        let own = Ipv6Addr::LOCALHOST;
        let server = Server::secure(|config, _| {
            let listener = vec![SocketAddr::new(own.into(), 0)];
            let ListenConfig { udp, tcp, tls, dtls } = &mut config.listen;
            [udp, tcp, tls, dtls].into_iter().for_each(|all| all.clone_from(&listener));
            config.relay.addresses = vec![RelayAddressConfig { bind: own.into(), advertise: None }];
            config.peers.allow = vec![PeerRule { network: "::1".parse().unwrap(), ports: None }];
            config.admin.listen = listener[0];
        });
        let stream = |address| TcpStream::connect(address).unwrap();
        for mut client in [
            udp_from(own.into(), server.udp()),
            over(stream(server.tcp())),
            tls_over(stream(server.tls()), rustls::ALL_VERSIONS).0,
        ] {
            // Most clients do not say which family they want.
            let relayed = client.allocated();
            assert_eq!(relayed.ip(), own);
            let peer = Peer::at(own.into());
            assert_eq!(client.bind(0x4000, peer.address()), None);
            client.send_channel(0x4000, b"six");
            assert_eq!(peer.receive(), Some((b"six".to_vec(), relayed)));
            peer.0.send_to(b"back", relayed).unwrap();
            assert_eq!(client.receive_channel(), (0x4000, b"back".to_vec()));
        }
        let mut client = udp_from(own.into(), server.udp());
        let refused = client.ask(Method::Allocate, |writer| {
            writer.attribute(a::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
            writer.attribute(a::REQUESTED_ADDRESS_FAMILY, &[1, 0, 0, 0]);
        });
        assert_eq!(refused.code(), Some(440), "there is no IPv4");
    });
}

#[test]
fn the_end_of_a_connection_ends_its_allocation() {
    let server = Server::secure(|_, _| {});
    for mut client in [tcp(&server), tls(&server)] {
        client.allocated();
        server.await_metric("livecluster_turn_allocations", |value| value == 1);
        drop(client);
        server.await_metric("livecluster_turn_allocations", |value| value == 0);
    }
}

#[test]
fn many_packets_of_many_sizes_keep_their_order() {
    let server = Server::plain();
    let echo = Peer::echo();
    for mut client in [udp(&server), tcp(&server)] {
        client.allocated();
        assert_eq!(client.bind(0x4000, echo), None);
        for burst in 0..20_usize {
            let packets: Vec<Vec<u8>> =
                (0..8).map(|index| vec![index as u8; 900 + 40 * ((burst + index) % 7)]).collect();
            packets.iter().for_each(|packet| client.send_channel(0x4000, packet));
            for packet in packets {
                assert_eq!(client.receive_channel(), (0x4000, packet));
            }
        }
    }
}
