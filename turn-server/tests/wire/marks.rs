//! The traffic class of datagrams, DSCP and ECN, which the network between has given them or will act
//! on: it passes as it came (RFC 8656 section 15).

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

use contract::turn_config::{PeerRule, RelayAddressConfig};
use libc::{c_int, cmsghdr, iovec, msghdr};

use crate::client::{Client, Datagrams, Peer};
use crate::server::{PATIENCE, Server};

/// Best effort; expedited forwarding; the same with ECT(0), with ECT(1); congestion experienced.
const MARKS: [u8; 5] = [0, 0xB8, 0xBA, 0xB9, 0x03];

/// Gives all that the socket sends from now on this traffic class.
fn mark(socket: &UdpSocket, class: u8) {
    set(socket, libc::IP_TOS, libc::IPV6_TCLASS, class.into());
}

/// Lets the kernel tell the traffic class of what comes.
fn tell_marks(socket: &UdpSocket) {
    set(socket, libc::IP_RECVTOS, libc::IPV6_RECVTCLASS, 1);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

fn set(socket: &UdpSocket, v4: c_int, v6: c_int, value: c_int) {
    let is_v4 = socket.local_addr().unwrap().is_ipv4();
    let (level, option) = if is_v4 { (libc::IPPROTO_IP, v4) } else { (libc::IPPROTO_IPV6, v6) };
    let size = size_of::<c_int>() as u32;
    // SAFETY: the value is an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size)
    };
    assert_eq!(result, 0);
}

/// The next datagram with its traffic class.
fn receive(socket: &UdpSocket) -> (Vec<u8>, u8) {
    let (mut bytes, mut control) = ([0; 2000], [0_u64; 16]);
    let mut slice = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the pointers are to buffers of these lengths, which live through all calls.
    unsafe {
        let mut message: msghdr = zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut slice, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        let length = usize::try_from(length).expect("a datagram comes");
        let head: *const cmsghdr = libc::CMSG_FIRSTHDR(&raw const message);
        let head = head.as_ref().expect("the kernel tells the class");
        let data = libc::CMSG_DATA(head);
        let class = match (head.cmsg_level, head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_TOS) => data.read(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => data.cast::<c_int>().read_unaligned() as u8,
            other => panic!("{other:?}"),
        };
        (bytes[..length].to_vec(), class)
    }
}

fn assert_marks_pass(server: &Server, own: IpAddr) {
    let socket = UdpSocket::bind((own, 0)).unwrap();
    socket.connect(server.udp()).unwrap();
    let client = socket.try_clone().unwrap();
    let peer = Peer::at(own);
    let mut session = Client::new(Box::new(Datagrams(socket)));
    let relayed = session.allocated();
    assert_eq!(session.bind(0x4000, peer.address()), None);
    tell_marks(&peer.0);
    tell_marks(&client);
    for class in MARKS {
        mark(&client, class);
        session.send_channel(0x4000, b"to the peer");
        assert_eq!(receive(&peer.0), (b"to the peer".to_vec(), class));
    }
    mark(&client, 0);
    for class in MARKS {
        mark(&peer.0, class);
        peer.0.send_to(b"back", relayed).unwrap();
        let (bytes, found) = receive(&client);
        assert_eq!((&bytes[4..], found), (&b"back"[..], class));
    }
}

#[test]
fn dscp_and_ecn_pass_both_ways() {
    assert_marks_pass(&Server::plain(), Ipv4Addr::LOCALHOST.into());
}

#[test]
fn dscp_and_ecn_pass_by_ipv6() {
    let own = IpAddr::from(Ipv6Addr::LOCALHOST);
    let server = Server::start(|config, _| {
        config.listen.udp = vec![(own, 0).into()];
        config.relay.addresses = vec![RelayAddressConfig { bind: own, advertise: None }];
        config.peers.allow = vec![PeerRule { network: "::1".parse().unwrap(), ports: None }];
    });
    assert_marks_pass(&server, own);
}
