//! The crate `rtc-turn`, a client without I/O: the test is its event loop.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_shared::{TransportContext, TransportMessage, TransportProtocol};
use rtc_turn::client::{Client, ClientConfig, Event, RelayedAddr};
use sansio::Protocol as _;

use crate::client::Peer;
use crate::server::{PASSWORD, PATIENCE, Server, USER};

/// Messages that have to come back.
const MESSAGES: u8 = 20;
/// How long the socket is waited for.
const TURN: Duration = Duration::from_millis(20);

fn client(server: SocketAddr, local_addr: SocketAddr) -> Client {
    let config = ClientConfig {
        stun_serv_addr: server.to_string(),
        turn_serv_addr: server.to_string(),
        local_addr,
        transport_protocol: TransportProtocol::UDP,
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        realm: "test".to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        allocation_refresh_interval_cap: None,
    };
    Client::new(config, rtc_crypto::default_provider().unwrap()).unwrap()
}

fn send(client: &mut Client, relay: Option<RelayedAddr>, number: u8, peer: SocketAddr) {
    let mut relay = client.relay(relay.unwrap()).unwrap();
    relay.send_to(Instant::now(), &[number; 500], peer).unwrap();
}

#[test]
fn the_rtc_turn_crate_works() {
    let server = Server::plain();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(TURN)).unwrap();
    let local_addr = socket.local_addr().unwrap();
    let mut client = client(server.udp(), local_addr);
    let peer = Peer::echo();
    let (mut relay, mut returned, mut buffer) = (None, 0, [0; 2000]);
    client.allocate(Instant::now()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while returned < MESSAGES {
        assert!(Instant::now() < deadline, "{returned} messages came back");
        while let Some(event) = client.poll_event() {
            match event {
                Event::AllocateResponse(_, address) => {
                    relay = Some(address);
                    let mut relay = client.relay(address).unwrap();
                    relay.create_permission(Instant::now(), peer).unwrap();
                }
                Event::CreatePermissionResponse(..) => send(&mut client, relay, 0, peer),
                Event::DataIndicationOrChannelData(_, from, data) => {
                    assert_eq!((from, &data[..]), (peer, &[returned; 500][..]));
                    returned += 1;
                    send(&mut client, relay, returned, peer);
                }
                _ => {}
            }
        }
        while let Some(out) = client.poll_write() {
            socket.send_to(&out.message, out.transport.peer_addr).unwrap();
        }
        if let Ok((length, peer_addr)) = socket.recv_from(&mut buffer) {
            let transport = TransportContext {
                local_addr,
                peer_addr,
                transport_protocol: TransportProtocol::UDP,
                ecn: None,
            };
            let message = BytesMut::from(&buffer[..length]);
            let read = TransportMessage { now: Instant::now(), transport, message };
            client.handle_read(read).unwrap();
        }
        client.handle_timeout(Instant::now()).unwrap();
    }
}
