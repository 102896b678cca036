//! UDP sockets as the relay needs them: many datagrams a system call in both directions, without
//! copying. Coalesced receiving (UDP_GRO) into one arena, segmented sending (UDP_SEGMENT) of
//! pieces of that arena.

#![allow(unsafe_code)] // System calls with control messages.

mod control;
mod receive;
mod send;

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use libc::{c_int, c_void, socklen_t};
use socket2::{Domain, Protocol, Socket, Type};

pub use receive::{Datagrams, Receiver};
pub use send::{Destination, MAX_PADDING, MAX_RUN, MAX_SEGMENTS, Memory, Segment, Sender};

/// Bytes of a listener's kernel buffers: key frames of many clients at once.
const LISTENER_BUFFER: usize = 4 * 1024 * 1024;
/// Bytes of a relay socket's kernel buffers: a key frame of one client.
const RELAY_BUFFER: usize = 512 * 1024;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Many clients; each worker has one on the same address.
    Listener,
    /// One allocation.
    Relay,
}

/// Binds a socket.
///
/// # Errors
///
/// When the address is taken or not of this machine.
pub fn bind(address: SocketAddr, purpose: Purpose) -> io::Result<mio::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // Each family has sockets of its own, so that addresses are what they seem.
        socket.set_only_v6(true)?;
    }
    let buffer = match purpose {
        Purpose::Listener => {
            socket.set_reuse_port(true)?;
            LISTENER_BUFFER
        }
        Purpose::Relay => RELAY_BUFFER,
    };
    set_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, buffer);
    set_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, buffer);
    socket.bind(&address.into())?;
    // Old kernels lack it: then datagrams come one by one.
    let _coalesced = set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    let is_v4 = address.is_ipv4();
    let (level, tos) = if is_v4 {
        (libc::IPPROTO_IP, libc::IP_RECVTOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)
    };
    set_option(&socket, level, tos, 1)?;
    match purpose {
        Purpose::Listener if address.ip().is_unspecified() => {
            // Answers must come from the address that was asked.
            let option = if is_v4 { libc::IP_PKTINFO } else { libc::IPV6_RECVPKTINFO };
            set_option(&socket, level, option, 1)?;
        }
        Purpose::Listener => {}
        Purpose::Relay => {
            // ICMP errors are told to the client (RFC 8656 section 11.5).
            let option = if is_v4 { libc::IP_RECVERR } else { libc::IPV6_RECVERR };
            set_option(&socket, level, option, 1)?;
            set_fragmenting(&socket, is_v4, true)?;
        }
    }
    Ok(mio::net::UdpSocket::from_std(socket.into()))
}

/// Lets the network fragment what the socket sends, or forbids it (RFC 8656 section 15).
///
/// # Errors
///
/// When the system refuses.
pub fn set_fragmenting(socket: &impl AsRawFd, is_v4: bool, may_fragment: bool) -> io::Result<()> {
    let (level, option, value) = match (is_v4, may_fragment) {
        (true, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        (true, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (false, true) => (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0),
        (false, false) => (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1),
    };
    set_option(socket, level, option, value)
}

/// Enlarges a buffer: beyond the system's limit where the process may, else up to it.
fn set_buffer(socket: &Socket, force: c_int, plain: c_int, bytes: usize) {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, force, bytes).is_err()
        && let Err(error) = set_option(socket, libc::SOL_SOCKET, plain, bytes)
    {
        tracing::debug!(%error, "Failed to enlarge a socket buffer");
    }
}

fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int, which outlives the call.
    let result = unsafe {
        let value = (&raw const value).cast::<c_void>();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, size_of::<c_int>() as socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Allows the process as many descriptors as it may have.
///
/// # Errors
///
/// When the system refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    // SAFETY: the limit lives through both calls.
    let result = unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An error that ICMP reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the datagram was sent.
    pub peer: SocketAddr,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU of "fragmentation needed", else 0.
    pub data: u32,
}

/// Takes an error from a relay socket's error queue.
pub fn take_icmp_error(socket: &impl AsRawFd) -> Option<IcmpError> {
    control::take_error(socket.as_raw_fd())
}

/// The address that answers go out from, where the listener has none of its own.
pub fn source(listener: SocketAddr, local: SocketAddr) -> Option<IpAddr> {
    listener.ip().is_unspecified().then(|| local.ip())
}

#[cfg(test)]
mod tests;
