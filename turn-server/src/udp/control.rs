//! Control messages of datagrams: what the kernel says beside the bytes, and what it is told.

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use libc::{
    c_int, cmsghdr, in_addr, in_pktinfo, in6_addr, in6_pktinfo, iovec, msghdr, sock_extended_err,
    sockaddr_in, sockaddr_in6, sockaddr_storage,
};

use super::IcmpError;

/// Bytes for all control messages of a datagram: segment size, traffic class, address.
pub(super) const CONTROL: usize = 128;

/// Control messages must lie where a `cmsghdr` may.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control(pub(super) [u8; CONTROL]);

/// What came beside a datagram.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Received {
    /// Bytes of each coalesced datagram but the last.
    pub(super) segment: Option<usize>,
    /// Address that it was sent to.
    pub(super) to: Option<IpAddr>,
    /// Traffic class: DSCP and ECN.
    pub(super) tos: u8,
}

/// Reads the control messages that the kernel wrote.
///
/// # Safety
///
/// `message` must be as a receiving call left it, with its buffers alive.
pub(super) unsafe fn read(message: &msghdr) -> Received {
    let mut received = Received::default();
    // SAFETY: the caller vouches for `message`; the macros stay within its control buffer, and
    // the kernel writes these types for these messages.
    unsafe {
        let mut head: *const cmsghdr = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = head.as_ref() {
            let data = libc::CMSG_DATA(head);
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<c_int>().read_unaligned();
                    received.segment = usize::try_from(size).ok().filter(|size| *size > 0);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => received.tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    received.tos = data.cast::<c_int>().read_unaligned() as u8;
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<in_pktinfo>().read_unaligned();
                    let octets = info.ipi_addr.s_addr.to_ne_bytes();
                    received.to = Some(Ipv4Addr::from(octets).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<in6_pktinfo>().read_unaligned();
                    received.to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => {}
            }
            head = libc::CMSG_NXTHDR(message, head);
        }
    }
    received
}

/// Writes control messages one behind the other.
pub(super) struct Writer<'a> {
    control: &'a mut Control,
    used: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(control: &'a mut Control) -> Self {
        Self { control, used: 0 }
    }

    /// Appends a message; there is room for one of each kind.
    pub(super) fn push<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, length) = unsafe {
            let size = size_of::<T>() as u32;
            (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize)
        };
        assert!(self.used + space <= CONTROL, "the messages of a datagram fit");
        // SAFETY: the space was checked, and `used` is a multiple of cmsghdr's alignment.
        unsafe {
            let head = self.control.0.as_mut_ptr().add(self.used).cast::<cmsghdr>();
            (*head).cmsg_level = level;
            (*head).cmsg_type = kind;
            (*head).cmsg_len = length;
            libc::CMSG_DATA(head).cast::<T>().write_unaligned(value);
        }
        self.used += space;
    }

    /// Appends the address that the datagram goes out from.
    pub(super) fn push_source(&mut self, from: IpAddr) {
        match from {
            IpAddr::V4(ip) => {
                let address = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let any = in_addr { s_addr: 0 };
                let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: any };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(ip) => {
                let address = in6_addr { s6_addr: ip.octets() };
                let info = in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    /// Bytes written.
    pub(super) fn length(&self) -> usize {
        self.used
    }
}

/// Writes an address as the kernel reads it; returns its length.
pub(super) fn write_address(storage: &mut sockaddr_storage, address: SocketAddr) -> u32 {
    // SAFETY: sockaddr_storage is large enough and aligned for both types.
    unsafe {
        match address {
            SocketAddr::V4(address) => {
                let target: *mut sockaddr_in = (&raw mut *storage).cast();
                (*target).sin_family = libc::AF_INET as libc::sa_family_t;
                (*target).sin_port = address.port().to_be();
                (*target).sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
                size_of::<sockaddr_in>() as u32
            }
            SocketAddr::V6(address) => {
                let target: *mut sockaddr_in6 = (&raw mut *storage).cast();
                (*target).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*target).sin6_port = address.port().to_be();
                (*target).sin6_flowinfo = 0;
                (*target).sin6_addr.s6_addr = address.ip().octets();
                (*target).sin6_scope_id = address.scope_id();
                size_of::<sockaddr_in6>() as u32
            }
        }
    }
}

/// Reads an address that the kernel wrote.
pub(super) fn read_address(storage: &sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: the family tells which type the kernel wrote; both fit.
    unsafe {
        match i32::from(storage.ss_family) {
            libc::AF_INET => {
                let address: &sockaddr_in = &*(&raw const *storage).cast();
                let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
            }
            libc::AF_INET6 => {
                let address: &sockaddr_in6 = &*(&raw const *storage).cast();
                let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
                let port = u16::from_be(address.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Takes an ICMP error from the error queue. Other errors are taken and left out.
pub(super) fn take_error(socket: RawFd) -> Option<IcmpError> {
    // Each turn takes one from a queue that the kernel bounds.
    loop {
        let mut control = [Control([0; CONTROL]); 4];
        let mut byte = [0_u8; 1];
        let mut slice = iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
        // SAFETY: zero is valid for both; the pointers are to live buffers of the given lengths.
        unsafe {
            let mut name: sockaddr_storage = zeroed();
            let mut message: msghdr = zeroed();
            message.msg_name = (&raw mut name).cast();
            message.msg_namelen = size_of::<sockaddr_storage>() as u32;
            message.msg_iov = &raw mut slice;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of::<[Control; 4]>();
            if libc::recvmsg(socket, &raw mut message, libc::MSG_ERRQUEUE) < 0 {
                return None;
            }
            let Some(peer) = read_address(&name) else { continue };
            let mut head: *const cmsghdr = libc::CMSG_FIRSTHDR(&raw const message);
            while let Some(header) = head.as_ref() {
                if matches!(
                    (header.cmsg_level, header.cmsg_type),
                    (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
                ) {
                    let error = libc::CMSG_DATA(head).cast::<sock_extended_err>().read_unaligned();
                    let is_icmp = matches!(
                        error.ee_origin,
                        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6
                    );
                    if is_icmp {
                        let (icmp_type, code) = (error.ee_type, error.ee_code);
                        return Some(IcmpError { peer, icmp_type, code, data: error.ee_info });
                    }
                }
                head = libc::CMSG_NXTHDR(&raw const message, head);
            }
        }
    }
}
