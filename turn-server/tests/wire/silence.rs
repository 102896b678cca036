//! What must not reach anybody, looked for where it would arrive.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;

use contract::turn_config::{MediaPeer, PeersFile};
use turn_server_core::stun::{Class, Method, Writer, attribute as a};

use crate::client::{Datagrams, Peer, Wire, parse, tcp, udp, udp_from};
use crate::server::{Server, replace, until};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[test]
fn strangers_relay_nothing() {
    let server = Server::plain();
    let peer = Peer::new();
    let mut owner = udp(&server);
    let relayed = owner.allocated();
    assert_eq!(owner.bind(0x4000, peer.address()), None);
    for mut stranger in [udp(&server), udp_from("127.0.0.9".parse().unwrap(), server.udp())] {
        stranger.send_channel(0x4000, b"stranger");
        stranger.send_indication(peer.address(), b"stranger", false);
        stranger.assert_silent();
    }
    peer.assert_silent();
    // Another address of the peer has no permission.
    let other = UdpSocket::bind("127.0.0.8:0").unwrap();
    other.send_to(b"unasked", relayed).unwrap();
    owner.assert_silent();
    owner.send_channel(0x4000, b"owner");
    assert_eq!(peer.receive().unwrap().0, b"owner");
}

#[test]
fn refused_peers_get_nothing_by_any_way() {
    let server = Server::start(|config, _| config.peers.allow.clear());
    for mut client in [udp(&server), tcp(&server)] {
        let relayed = client.allocated();
        let peer = Peer::new();
        let listener = server.udp();
        for refused in [peer.address(), listener, relayed, server.admin] {
            assert_eq!(client.permit(refused), Some(403), "{refused}");
            assert_eq!(client.bind(0x4000, refused), Some(403), "{refused}");
            client.send_channel(0x4000, b"x");
            client.send_indication(refused, b"x", false);
        }
        peer.assert_silent();
        client.assert_silent();
    }
    assert_eq!(server.metric("livecluster_turn_packets_total{direction=\"to_peer\"}"), 0);
}

#[test]
fn own_ports_are_no_peers_although_a_rule_names_them() {
    let server = Server::plain();
    let mut client = udp(&server);
    let relayed = client.allocated();
    let mut other = udp(&server);
    let others_relay = other.allocated();
    for own in [server.udp(), server.tcp(), relayed, others_relay] {
        assert_eq!(client.permit(own), Some(403), "{own}");
        assert_eq!(client.bind(0x4000, own), Some(403), "{own}");
    }
    // The permission of another port of the address does not open these.
    let peer = UdpSocket::bind((server.udp().ip(), 0)).unwrap();
    assert_eq!(client.permit(peer.local_addr().unwrap()), None);
    assert_eq!(other.permit(peer.local_addr().unwrap()), None);
    let nothing = Writer::new(Class::Request, Method::Binding, [1; 12]).finish(None, false);
    for own in [server.udp(), others_relay] {
        client.send_indication(own, &nothing, false);
    }
    client.assert_silent();
    other.assert_silent();
}

#[test]
fn the_media_ports_of_the_file_are_the_peers_and_nothing_else() {
    let peers_file = |peers: Vec<MediaPeer>| serde_json::to_string(&PeersFile { peers }).unwrap();
    let (media, closed) = (Peer::new(), Peer::new());
    let advertised: IpAddr = "203.0.113.50".parse().unwrap();
    let named = SocketAddr::new(advertised, media.address().port());
    let entry = MediaPeer { advertised, local: LOOPBACK, ports: vec![media.address().port()] };
    let text = peers_file(vec![entry]);
    let server = Server::start(|config, directory| {
        config.peers.allow.clear();
        config.peers.file = Some(directory.join("peers.json"));
        replace(&directory.join("peers.json"), &text);
    });
    let mut client = udp(&server);
    let relayed = client.allocated();
    assert_eq!(client.bind(0x4000, named), None);
    client.send_channel(0x4000, b"media");
    assert_eq!(media.receive(), Some((b"media".to_vec(), relayed)));
    media.0.send_to(b"back", relayed).unwrap();
    assert_eq!(client.receive_channel(), (0x4000, b"back".to_vec()));

    let closed_port = SocketAddr::new(advertised, closed.address().port());
    assert_eq!(client.bind(0x4001, closed_port), Some(403));
    client.send_indication(closed_port, b"x", false);
    client.send_indication(closed.address(), b"x", false);
    closed.assert_silent();

    // The node is gone: from here on nothing leaves.
    replace(&server.path("peers.json"), &peers_file(Vec::new()));
    let denied = "livecluster_turn_dropped_total{reason=\"peer_denied\"}";
    let before = server.metric(denied);
    until("the file is read", || {
        client.send_channel(0x4000, b"late");
        server.metric(denied) > before
    });
    while media.0.set_nonblocking(true).is_ok() && media.0.recv(&mut [0; 99]).is_ok() {}
    media.0.set_nonblocking(false).unwrap();
    client.send_channel(0x4000, b"later");
    media.assert_silent();
    media.0.send_to(b"later", relayed).unwrap();
    client.assert_silent();
}

#[test]
fn errors_of_the_network_reach_the_client_and_harm_nobody() {
    let server = Server::plain();
    let mut client = udp(&server);
    client.allocated();
    let gone = Peer::new().address();
    assert_eq!(client.permit(gone), None);
    client.send_indication(gone, b"is anybody there?", false);
    let bytes = client.receive().expect("what ICMP said");
    let indication = parse(&bytes);
    assert_eq!((indication.method, indication.peer), (Method::Data, Some(gone)));
    let icmp = crate::client::Answer(bytes.clone());
    assert_eq!(icmp.get(a::ICMP), Some(&[0, 0, 3, 3, 0, 0, 0, 0][..]), "port unreachable");
    // The listener and the relay go on.
    let echo = Peer::echo();
    assert_eq!(client.bind(0x4000, echo), None);
    for _ in 0..20 {
        client.send_indication(gone, b"again", false);
    }
    client.send_channel(0x4000, b"alive");
    loop {
        let message = client.receive().unwrap();
        if message[0] == 0x40 {
            assert_eq!(&message[4..], b"alive");
            return;
        }
    }
}

#[test]
fn noise_gets_no_answer() {
    let server = Server::plain();
    let socket = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    socket.connect(server.udp()).unwrap();
    let mut wire = Datagrams(socket);
    let classic = [&[0, 1, 0, 0][..], &[1; 16]].concat();
    let mut too_long = Writer::new(Class::Request, Method::Binding, [1; 12]).finish(None, false);
    too_long[2..4].copy_from_slice(&[0xff, 0xfc]);
    for noise in [&b""[..], b"\0", &[0xff; 1500], b"GET / HTTP/1.1\r\n\r\n", &classic, &too_long] {
        wire.send(noise);
    }
    assert_eq!(wire.receive(std::time::Duration::from_millis(300)), None);
    wire.send(&Writer::new(Class::Request, Method::Binding, [1; 12]).finish(None, false));
    assert!(wire.receive(crate::server::PATIENCE).is_some(), "the listener goes on");
}

/// Runs a test in a network namespace of its own, in which loopback has a small MTU.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread, and what it starts, changes its namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "tests run as root");
        for arguments in ["link set lo up mtu 2000", "route add local 11.0.0.0/8 dev lo"] {
            let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
            assert!(status.success(), "ip {arguments}");
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn what_must_not_be_fragmented_is_not() {
    in_namespace(|| {
        let server = Server::plain();
        let mut client = tcp(&server);
        client.allocated();
        let peer = Peer::new();
        assert_eq!(client.permit(peer.address()), None);
        let long = vec![7; 3000];
        client.send_indication(peer.address(), &long, true);
        peer.assert_silent();
        client.send_indication(peer.address(), &long, false);
        assert_eq!(peer.receive().unwrap().0, long);
        client.send_indication(peer.address(), &[8; 1500], true);
        assert_eq!(peer.receive().unwrap().0, [8; 1500]);
    });
}
