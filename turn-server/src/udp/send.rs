//! Sending: runs of datagrams to one destination with one call, gathered from where they lie.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsRawFd;

use libc::{iovec, msghdr, sockaddr_storage};

use super::control::{self, CONTROL, Control, Writer};

/// Most datagrams of a run (UDP_MAX_SEGMENTS of older kernels).
pub const MAX_SEGMENTS: usize = 64;
/// Most bytes of a run, below the limit of an IP packet with any header.
pub const MAX_RUN: usize = 65_000;

/// A datagram: a header that is made for it, bytes of the arena, and zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where its header lies among the headers; may be empty.
    pub header: Range<usize>,
    /// Where its bytes lie in the arena.
    pub payload: Range<usize>,
    /// Zero bytes after them, at most [`MAX_PADDING`].
    pub padding: usize,
}

/// Attributes are padded to four bytes (RFC 8489 section 14).
pub const MAX_PADDING: usize = 3;

/// Where the bytes of segments lie.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// What was received.
    pub arena: &'a [u8],
    /// Headers that were made.
    pub headers: &'a [u8],
}

impl Segment {
    /// A datagram as it was received.
    pub fn plain(payload: Range<usize>) -> Self {
        Self { payload, ..Self::default() }
    }

    /// Bytes of the datagram.
    pub fn length(&self) -> usize {
        self.header.len() + self.payload.len() + self.padding
    }
}

/// Where a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// Address of the receiver.
    pub to: SocketAddr,
    /// Our address, where the socket is bound to all of them.
    pub from: Option<IpAddr>,
    /// Traffic class: DSCP and ECN.
    pub tos: u8,
}

/// What describes runs to the kernel. Reused for every call of a worker.
pub struct Sender {
    slices: Vec<iovec>,
    control: Control,
    segments_at_once: bool,
    calls: u64,
}

impl Default for Sender {
    fn default() -> Self {
        let slices = Vec::with_capacity(3 * MAX_SEGMENTS);
        Self { slices, control: Control([0; CONTROL]), segments_at_once: true, calls: 0 }
    }
}

impl Sender {
    /// Sends datagrams of the same size (the last may be shorter); returns how many went.
    ///
    /// # Errors
    ///
    /// With the socket's error when none went.
    pub fn send_run(
        &mut self,
        socket: &impl AsRawFd,
        destination: Destination,
        run: &[Segment],
        memory: Memory<'_>,
    ) -> io::Result<usize> {
        if run.len() > 1 && self.segments_at_once {
            match self.send(socket, destination, run, memory) {
                Ok(()) => return Ok(run.len()),
                // A device that cannot, or segments above its MTU: the kernel fragments single
                // datagrams.
                Err(error) => match error.raw_os_error() {
                    Some(libc::EIO) => self.segments_at_once = false,
                    Some(libc::EINVAL | libc::EMSGSIZE) => {}
                    _ => return Err(error),
                },
            }
        }
        let mut result = Ok(0);
        for segment in run {
            match self.send(socket, destination, std::slice::from_ref(segment), memory) {
                Ok(()) => result = Ok(result.unwrap_or(0) + 1),
                Err(error) if matches!(result, Ok(0)) => result = Err(error),
                Err(_) => {}
            }
        }
        result
    }

    fn send(
        &mut self,
        socket: &impl AsRawFd,
        destination: Destination,
        run: &[Segment],
        memory: Memory<'_>,
    ) -> io::Result<()> {
        self.slices.clear();
        for Segment { header, payload, padding } in run {
            if !header.is_empty() {
                self.push(&memory.headers[header.clone()]);
            }
            self.push(&memory.arena[payload.clone()]);
            if *padding > 0 {
                self.push(&[0; MAX_PADDING][..*padding]);
            }
        }
        // SAFETY: zero is valid for both.
        let (mut name, mut message) = unsafe { (zeroed::<sockaddr_storage>(), zeroed::<msghdr>()) };
        message.msg_namelen = control::write_address(&mut name, destination.to);
        message.msg_name = (&raw mut name).cast();
        let mut writer = Writer::new(&mut self.control);
        if run.len() > 1 {
            let size = u16::try_from(run[0].length()).map_err(|_| io::ErrorKind::InvalidInput)?;
            writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, size);
        }
        if destination.tos != 0 {
            let (level, option) = match destination.to {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            };
            writer.push(level, option, i32::from(destination.tos));
        }
        if let Some(from) = destination.from {
            writer.push_source(from);
        }
        message.msg_controllen = writer.length();
        if message.msg_controllen > 0 {
            message.msg_control = (&raw mut self.control).cast();
        }
        message.msg_iov = self.slices.as_mut_ptr();
        message.msg_iovlen = self.slices.len();
        self.calls += 1;
        // An ICMP error of an earlier datagram is reported instead of sending this one; it stays
        // in the error queue, so that once more is enough.
        for attempt in 0..2 {
            // SAFETY: all pointers are to buffers that live until after the call, of which the
            // kernel only reads.
            let sent = unsafe {
                libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT)
            };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            let is_old = matches!(
                error.raw_os_error(),
                Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EINTR)
            );
            if !is_old || attempt == 1 {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the number of calls of the kernel since it was taken last.
    pub fn take_calls(&mut self) -> u64 {
        std::mem::take(&mut self.calls)
    }

    /// The bytes must live until the call; [`Self::send`] sees to it.
    fn push(&mut self, bytes: &[u8]) {
        self.slices
            .push(iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
    }
}
