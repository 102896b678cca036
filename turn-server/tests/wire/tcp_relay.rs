//! TCP allocations (RFC 6062): connections to and from peers, on workers that the kernel chose.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use turn_server_core::stun::{Method, Writer, attribute as a};

use crate::client::{Client, over, parse};
use crate::server::{PATIENCE, Server};

fn allocated(server: &Server) -> (Client, std::net::SocketAddr) {
    let mut client = crate::client::tcp(server);
    let answer = client.ask(Method::Allocate, |writer| {
        writer.attribute(a::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    });
    assert_eq!(answer.code(), None);
    let relayed = answer.address(a::XOR_RELAYED_ADDRESS);
    (client, relayed)
}

/// A client's second connection, joined to a peer's.
fn bound(server: &Server, connection: u32) -> TcpStream {
    let stream = TcpStream::connect(server.tcp()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let raw = stream.try_clone().unwrap();
    let answer = over(stream).ask(Method::ConnectionBind, |writer: &mut Writer| {
        writer.number(a::CONNECTION_ID, connection);
    });
    assert_eq!(answer.code(), None);
    raw
}

fn assert_joined(mut client: TcpStream, mut peer: TcpStream) {
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    for _ in 0..2 {
        let (writer, reader) = (client.try_clone().unwrap(), peer.try_clone().unwrap());
        let bytes = sent.clone();
        let thread = std::thread::spawn(move || (&writer).write_all(&bytes).unwrap());
        let mut received = vec![0; sent.len()];
        (&reader).read_exact(&mut received).unwrap();
        thread.join().unwrap();
        assert_eq!(received, sent);
        std::mem::swap(&mut client, &mut peer);
    }
    drop(client);
    assert_eq!(peer.read(&mut [0]).unwrap_or(0), 0, "the end is passed on");
}

#[test]
fn clients_connect_to_peers() {
    let server = Server::plain();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // So often that both workers get connections for the other.
    for _ in 0..8 {
        let (mut client, relayed) = allocated(&server);
        let answer = client.ask(Method::Connect, |writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, listener.local_addr().unwrap());
        });
        assert_eq!(answer.code(), None);
        let (peer, from) = listener.accept().unwrap();
        assert_eq!(from, relayed);
        assert_joined(bound(&server, answer.number(a::CONNECTION_ID)), peer);
        assert_eq!(client.refresh(0), None);
    }
}

#[test]
fn peers_connect_to_clients() {
    let server = Server::plain();
    for _ in 0..8 {
        let (mut client, relayed) = allocated(&server);
        let mut stranger = TcpStream::connect(relayed).unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0, "closed without a permission");
        assert_eq!(client.permit((Ipv4Addr::LOCALHOST, 1).into()), None);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let own: std::net::SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        socket.bind(&own.into()).unwrap();
        socket.connect(&relayed.into()).unwrap();
        let peer: TcpStream = socket.into();
        let bytes = client.receive().unwrap();
        let attempt = parse(&bytes);
        assert_eq!(attempt.method, Method::ConnectionAttempt);
        assert_eq!(attempt.peer, Some(peer.local_addr().unwrap()));
        assert_joined(bound(&server, attempt.connection.unwrap()), peer);
    }
}

#[test]
fn peers_that_refuse_and_those_that_are_forbidden() {
    let server = Server::plain();
    let (mut client, relayed) = allocated(&server);
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for (peer, code) in [(gone, 447), (server.admin, 403), (server.tcp(), 403), (relayed, 403)] {
        let answer = client.ask(Method::Connect, |writer| {
            writer.xor_address(a::XOR_PEER_ADDRESS, peer);
        });
        assert_eq!(answer.code(), Some(code), "{peer}");
    }
}
