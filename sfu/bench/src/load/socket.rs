//! UDP sockets with what the standard library lacks: coalesced receiving, the kernel's receive
//! times, segmented sending.

#![allow(unsafe_code)] // System calls with control messages.

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;

use libc::{c_int, c_void, cmsghdr, iovec, msghdr, sockaddr_in, socklen_t, timespec};

/// Most bytes of coalesced datagrams.
pub(crate) const MAX_COALESCED: usize = 65_536;
/// Bytes of a receive buffer: what is sent in one burst to a client that is not scheduled.
const RECEIVE_BUFFER: c_int = 1024 * 1024;
/// Bytes of a send buffer of the floor: a frame to all.
const SEND_BUFFER: c_int = 8 * 1024 * 1024;
/// Room for a time and a segment size.
const CONTROL: usize = 128;

/// Datagrams that lie one behind the other in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes in all.
    pub(crate) length: usize,
    /// Bytes of each datagram but the last.
    pub(crate) segment: usize,
    /// When the kernel got them, nanoseconds since 1970.
    pub(crate) nanos: u64,
}

/// Makes a socket that receives from `remote` only. Without `coalesce` the kernel splits what
/// the server sends at once, as a network card without that feature would have to.
pub(crate) fn connect(remote: SocketAddr, coalesce: bool) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(remote)?;
    prepare(&socket, coalesce)?;
    Ok(socket)
}

/// Sets what [`receive`] needs.
pub(crate) fn prepare(socket: &UdpSocket, coalesce: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if coalesce {
        set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    }
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
}

/// Makes the send buffer large enough for a burst.
pub(crate) fn prepare_sender(socket: &UdpSocket) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
}

fn set_option(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int, which outlives the call.
    let result = unsafe {
        let value = (&raw const value).cast::<c_void>();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of::<c_int>() as socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Control messages must lie where a `cmsghdr` may.
#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Receives once; `None` when nothing is there.
pub(crate) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let mut control = Control([0; CONTROL]);
    let mut slice = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a zeroed msghdr is valid; all pointers are to live buffers of the given lengths.
    let (length, message) = unsafe {
        let mut message: msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL;
        (libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0), message)
    };
    if length < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock => Ok(None),
            _ => Err(error),
        };
    }
    let length = length.unsigned_abs();
    let mut received = Received { length, segment: length, nanos: 0 };
    // SAFETY: the kernel filled `message`; the macros stay within its control buffer, and the
    // two types hold what is read of them.
    unsafe {
        let mut head: *const cmsghdr = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(header) = head.as_ref() {
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = libc::CMSG_DATA(head).cast::<c_int>().read_unaligned();
                    received.segment = usize::try_from(size).unwrap_or(length).max(1);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let time = libc::CMSG_DATA(head).cast::<timespec>().read_unaligned();
                    received.nanos =
                        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
                }
                _ => {}
            }
            head = libc::CMSG_NXTHDR(&raw const message, head);
        }
    }
    Ok(Some(received))
}

/// Sends datagrams of `segment` bytes (the last may be shorter) with one call.
pub(crate) fn send_segments(
    socket: &UdpSocket,
    to: SocketAddrV4,
    bytes: &[u8],
    segment: u16,
) -> io::Result<()> {
    let mut control = Control([0; CONTROL]);
    let mut slice = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut address = sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: a zeroed msghdr is valid; all pointers are to live buffers of the given lengths,
    // of which the kernel only reads; the control buffer holds one message with a u16.
    let sent = unsafe {
        let mut message: msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = size_of::<sockaddr_in>() as socklen_t;
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        if bytes.len() > usize::from(segment) {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_UDP;
            (*head).cmsg_type = libc::UDP_SEGMENT;
            (*head).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
            libc::CMSG_DATA(head).cast::<u16>().write_unaligned(segment);
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const message, 0)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::{Duration, Instant};

    use super::*;

    fn wait(socket: &UdpSocket, buffer: &mut [u8]) -> Received {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if let Some(received) = receive(socket, buffer).unwrap() {
                return received;
            }
            std::thread::yield_now();
        }
        panic!("nothing came");
    }

    #[test]
    fn what_is_sent_in_segments_arrives_coalesced_or_one_by_one() {
        for coalesce in [true, false] {
            let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            prepare(&receiver, coalesce).unwrap();
            let SocketAddr::V4(to) = receiver.local_addr().unwrap() else { panic!() };
            let before = crate::source::clock();
            send_segments(&sender, to, &[7; 2500], 1000).unwrap();
            let mut buffer = vec![0; MAX_COALESCED];
            let mut sizes = Vec::new();
            while sizes.iter().sum::<usize>() < 2500 {
                let received = wait(&receiver, &mut buffer);
                assert!(received.nanos >= before);
                let whole = &buffer[..received.length];
                sizes.extend(whole.chunks(received.segment).map(<[u8]>::len));
            }
            assert_eq!(sizes, [1000, 1000, 500], "coalesce {coalesce}");
        }
    }
}
