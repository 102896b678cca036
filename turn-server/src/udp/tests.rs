use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn pair(ip: IpAddr) -> (mio::net::UdpSocket, mio::net::UdpSocket) {
    let bind = || bind(SocketAddr::new(ip, 0), Purpose::Relay).unwrap();
    (bind(), bind())
}

fn segments(header: Range<usize>, padding: usize, lengths: &[usize]) -> Vec<Segment> {
    let mut start = 0;
    lengths
        .iter()
        .map(|length| {
            let payload = start..start + length;
            start = payload.end;
            Segment { header: header.clone(), payload, padding }
        })
        .collect()
}

fn plain(arena: &[u8]) -> Memory<'_> {
    Memory { arena, headers: &[] }
}

/// Receives `count` datagrams with their traffic class.
fn receive(socket: &mio::net::UdpSocket, count: usize) -> Vec<(Vec<u8>, u8, Option<IpAddr>)> {
    let mut receiver = Receiver::new(4);
    let mut found = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while found.len() < count {
        assert!(Instant::now() < end, "{} of {count} came", found.len());
        let groups = receiver.receive(socket).unwrap();
        for index in 0..groups {
            let datagrams = receiver.datagrams(index).unwrap();
            for range in datagrams.ranges() {
                found.push((receiver.arena()[range].to_vec(), datagrams.tos, datagrams.to));
            }
        }
        std::thread::yield_now();
    }
    found
}

#[test]
fn a_run_arrives_as_the_datagrams_that_it_is() {
    for ip in [LOOPBACK, Ipv6Addr::LOCALHOST.into()] {
        for (header, padding) in [(0..0, 0), (2..6, 0), (0..6, 3)] {
            let (from, to) = pair(ip);
            let arena: Vec<u8> = (0..=255).cycle().take(2500).collect();
            let memory = Memory { arena: &arena, headers: b"header" };
            let run = segments(header.clone(), padding, &[1000, 1000, 500]);
            let destination =
                Destination { to: to.local_addr().unwrap(), from: None, tos: 0x2E << 2 };
            let sent = Sender::default().send_run(&from, destination, &run, memory).unwrap();
            assert_eq!(sent, 3);
            for (segment, (bytes, tos, _)) in run.iter().zip(receive(&to, 3)) {
                let expected = [
                    &memory.headers[header.clone()],
                    &arena[segment.payload.clone()],
                    &[0; MAX_PADDING][..padding],
                ];
                assert_eq!(bytes, expected.concat());
                assert_eq!(tos, 0x2E << 2);
            }
        }
    }
}

#[test]
fn segments_above_the_mtu_go_one_by_one() {
    // The loopback device has an MTU of 65536; above it only fragments fit.
    let (from, to) = pair(LOOPBACK);
    let arena = vec![7; 65_000];
    let run = segments(0..0, 0, &[40_000, 25_000]);
    let destination = Destination { to: to.local_addr().unwrap(), from: None, tos: 0 };
    assert_eq!(Sender::default().send_run(&from, destination, &run, plain(&arena)).unwrap(), 2);
    let lengths: Vec<usize> = receive(&to, 2).iter().map(|(bytes, _, _)| bytes.len()).collect();
    assert_eq!(lengths, [40_000, 25_000]);
}

#[test]
fn empty_datagrams_are_datagrams() {
    let (from, to) = pair(LOOPBACK);
    let destination = Destination { to: to.local_addr().unwrap(), from: None, tos: 0 };
    let run = segments(0..0, 0, &[0]);
    assert_eq!(Sender::default().send_run(&from, destination, &run, plain(&[])).unwrap(), 1);
    assert_eq!(receive(&to, 1)[0].0, b"");
}

#[test]
fn a_listener_on_all_addresses_answers_from_the_one_that_was_asked() {
    let listener = bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), Purpose::Listener);
    let listener = listener.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = SocketAddr::new(Ipv4Addr::new(127, 7, 7, 7).into(), port);
    let (client, _) = pair(LOOPBACK);
    client.send_to(b"x", asked).unwrap();
    let local = receive(&listener, 1)[0].2;
    assert_eq!(local, Some(asked.ip()));
    let destination = Destination { to: client.local_addr().unwrap(), from: local, tos: 0 };
    Sender::default()
        .send_run(&listener, destination, &segments(0..0, 0, &[1]), plain(b"y"))
        .unwrap();
    let mut buffer = [0; 10];
    let end = Instant::now() + Duration::from_secs(5);
    let (_, from) = loop {
        match client.recv_from(&mut buffer) {
            Ok(received) => break received,
            Err(_) => assert!(Instant::now() < end),
        }
    };
    assert_eq!(from, asked);
}

#[test]
fn an_icmp_error_is_told_and_does_not_stop_the_socket() {
    let (from, closed) = pair(LOOPBACK);
    let peer = closed.local_addr().unwrap();
    drop(closed);
    let (to, _) = pair(LOOPBACK);
    let mut sender = Sender::default();
    let run = segments(0..0, 0, &[3]);
    let send = |sender: &mut Sender, to| {
        sender.send_run(&from, Destination { to, from: None, tos: 0 }, &run, plain(b"abc"))
    };
    send(&mut sender, peer).unwrap();
    // The error of the first is pending when the second goes out.
    assert_eq!(send(&mut sender, to.local_addr().unwrap()).unwrap(), 1);
    assert_eq!(receive(&to, 1)[0].0, b"abc");
    let error = take_icmp_error(&from).unwrap();
    assert_eq!(error, IcmpError { peer, icmp_type: 3, code: 3, data: 0 });
    assert_eq!(take_icmp_error(&from), None);
}

#[test]
fn listeners_share_an_address_and_relays_do_not() {
    let first = bind(SocketAddr::new(LOOPBACK, 0), Purpose::Listener).unwrap();
    let address = first.local_addr().unwrap();
    bind(address, Purpose::Listener).unwrap();
    assert!(bind(address, Purpose::Relay).is_err());
}
