//! PROXY protocol headers, version 2.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use turn_server_core::stun::{Method, attribute as a};

use crate::client::{over, tls_over};
use crate::server::{PATIENCE, Server};

fn header(command: u8, remote: &str, local: &str) -> Vec<u8> {
    let (remote, local): (SocketAddr, SocketAddr) =
        (remote.parse().unwrap(), local.parse().unwrap());
    let (mut body, family) = match (remote, local) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            ([from.ip().octets(), to.ip().octets()].concat(), 0x11)
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            ([from.ip().octets(), to.ip().octets()].concat(), 0x21)
        }
        _ => panic!("mixed families"),
    };
    body.extend(remote.port().to_be_bytes());
    body.extend(local.port().to_be_bytes());
    // A TLV: what the balancer knows besides.
    body.extend([0x04, 0, 3, 1, 2, 3]);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend((body.len() as u16).to_be_bytes());
    header.extend(body);
    header
}

fn connect(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // Split, as a network may.
    let (first, second) = header.split_at(header.len() / 2);
    stream.write_all(first).unwrap();
    stream.flush().unwrap();
    stream.write_all(second).unwrap();
    stream
}

fn trusting() -> Server {
    Server::secure(|config, _| {
        config.proxy_protocol.trusted = vec!["127.0.0.1".parse().unwrap()];
    })
}

#[test]
fn the_header_names_the_client_with_tls_and_without() {
    let server = trusting();
    for (remote, local) in
        [("198.51.100.7:4711", "203.0.113.1:443"), ("[2001:db8::7]:4711", "[2001:db8::1]:443")]
    {
        let header = header(0x21, remote, local);
        let clients = [
            over(connect(server.tcp(), &header)),
            tls_over(connect(server.tls(), &header), rustls::ALL_VERSIONS).0,
        ];
        for mut client in clients {
            let answer = client.ask(Method::Binding, |_| {});
            assert_eq!(answer.address(a::XOR_MAPPED_ADDRESS), remote.parse().unwrap());
            client.allocated();
        }
    }
}

#[test]
fn probes_and_clients_without_a_header_are_served_too() {
    let server = trusting();
    let local_probe = header(0x20, "1.2.3.4:5", "1.2.3.4:6");
    for header in [&local_probe[..], &[]] {
        let stream = connect(server.tcp(), header);
        let own = stream.local_addr().unwrap();
        let answer = over(stream).ask(Method::Binding, |_| {});
        assert_eq!(answer.address(a::XOR_MAPPED_ADDRESS), own);
    }
}

#[test]
fn lies_and_broken_headers_end_the_connection() {
    let good = header(0x21, "198.51.100.7:1", "203.0.113.1:2");
    let mut wrong_version = good.clone();
    wrong_version[12] = 0x31;
    let mut too_short = good.clone();
    too_short[14..16].copy_from_slice(&[0, 4]);
    let mut too_long = good.clone();
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    let trusting = trusting();
    let distrusting = Server::secure(|_, _| {});
    for (server, header) in [
        (&distrusting, &good),
        (&trusting, &wrong_version),
        (&trusting, &too_short),
        (&trusting, &too_long),
    ] {
        for address in [server.tcp(), server.tls()] {
            let mut stream = connect(address, header);
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // An end, not a time-out.
            match stream.read(&mut [0; 9]) {
                Ok(length) => assert_eq!(length, 0),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                }
            }
        }
    }
}
