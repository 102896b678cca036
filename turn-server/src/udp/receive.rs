//! Receiving: many coalesced datagrams a call, into one arena.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use libc::{iovec, mmsghdr, sockaddr_storage};

use super::control::{self, CONTROL, Control};

/// Bytes of a slot: the most that the kernel coalesces.
const SLOT: usize = 65_536;

/// Datagrams of one sender that lie one behind the other in the arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagrams {
    /// All their bytes.
    pub range: Range<usize>,
    /// Bytes of each but the last, which may be shorter.
    pub segment: usize,
    /// Who sent them.
    pub from: SocketAddr,
    /// Our address, where the socket is bound to all of them.
    pub to: Option<IpAddr>,
    /// Traffic class: DSCP and ECN.
    pub tos: u8,
}

impl Datagrams {
    /// The place of each datagram in the arena. An empty datagram has one, too.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (Range { start, end }, segment) = (self.range.clone(), self.segment.max(1));
        let count = (end - start).div_ceil(segment).max(1);
        (0..count).map(move |index| {
            let from = start + index * segment;
            from..(from + segment).min(end)
        })
    }
}

/// An arena and what describes it to the kernel. Reused for every call of a worker.
pub struct Receiver {
    arena: Box<[u8]>,
    // The kernel reads and writes these through pointers in `messages`; nothing moves or drops
    // them before `messages`.
    names: Box<[sockaddr_storage]>,
    _controls: Box<[Control]>,
    _slices: Box<[iovec]>,
    messages: Box<[mmsghdr]>,
}

impl Receiver {
    /// Makes room for `slots` groups of datagrams; at least two, so that a call that fills fewer
    /// tells that the socket is empty.
    pub fn new(slots: usize) -> Self {
        let mut arena = vec![0; slots * SLOT].into_boxed_slice();
        // SAFETY: all-zero bytes are valid values of these C types.
        let (name, message) = unsafe { (zeroed::<sockaddr_storage>(), zeroed::<mmsghdr>()) };
        let mut names = vec![name; slots].into_boxed_slice();
        let mut controls = vec![Control([0; CONTROL]); slots].into_boxed_slice();
        let base = arena.as_mut_ptr();
        let mut slices: Box<[iovec]> = (0..slots)
            .map(|index| iovec { iov_base: base.wrapping_add(index * SLOT).cast(), iov_len: SLOT })
            .collect();
        let mut messages = vec![message; slots].into_boxed_slice();
        for (index, message) in messages.iter_mut().enumerate() {
            message.msg_hdr.msg_name = (&raw mut names[index]).cast();
            message.msg_hdr.msg_control = (&raw mut controls[index]).cast();
            message.msg_hdr.msg_iov = &raw mut slices[index];
            message.msg_hdr.msg_iovlen = 1;
        }
        Self { arena, names, _controls: controls, _slices: slices, messages }
    }

    /// Most groups that a call receives.
    pub fn slots(&self) -> usize {
        self.messages.len()
    }

    /// Receives into the arena; returns the number of groups. Fewer than [`Self::slots`] mean
    /// that the socket is empty.
    ///
    /// # Errors
    ///
    /// With the socket's error, which does not end it.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<usize> {
        for message in &mut self.messages {
            message.msg_hdr.msg_namelen = size_of::<sockaddr_storage>() as u32;
            message.msg_hdr.msg_controllen = CONTROL;
        }
        // SAFETY: the messages point to buffers that `self` owns.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                self.messages.len() as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if received >= 0 {
            return Ok(received.unsigned_abs() as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
    }

    /// Describes a group of the last call.
    pub fn datagrams(&self, index: usize) -> Option<Datagrams> {
        let message = &self.messages[index];
        let from = control::read_address(&self.names[index])?;
        let length = (message.msg_len as usize).min(SLOT);
        // SAFETY: the last call wrote it, and the buffers live with `self`.
        let received = unsafe { control::read(&message.msg_hdr) };
        let start = index * SLOT;
        Some(Datagrams {
            range: start..start + length,
            segment: received.segment.unwrap_or(length),
            from,
            to: received.to,
            tos: received.tos,
        })
    }

    /// What was received.
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }
}
