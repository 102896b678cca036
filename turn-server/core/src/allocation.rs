//! An allocation (RFC 8656 section 3.2) with its permissions and channels.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::api::{Client, RelayId, RelayTransport};
use crate::auth::User;
use crate::limits::Bucket;
use crate::stun::Signer;

/// How long a permission lives (RFC 8656 section 9).
pub(crate) const PERMISSION_LIFE: Duration = Duration::from_secs(300);
/// How long a channel lives (RFC 8656 section 12).
pub(crate) const CHANNEL_LIFE: Duration = Duration::from_secs(600);

/// A peer address that may send to the client.
#[derive(Debug)]
pub(crate) struct Permission {
    /// Address as the client names it.
    pub(crate) peer: IpAddr,
    /// Addresses as this machine reaches them: media nodes may share an advertised one.
    pub(crate) locals: Box<[IpAddr]>,
    pub(crate) expires: Instant,
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) number: u16,
    /// Address as the client names it.
    pub(crate) peer: SocketAddr,
    /// Address as this machine reaches it; `None` once the policy closed it.
    pub(crate) local: Option<SocketAddr>,
    pub(crate) relay: RelayId,
    pub(crate) expires: Instant,
}

/// A request whose sockets are being opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) signer: Signer,
    pub(crate) fingerprint: bool,
    pub(crate) lifetime: Duration,
    /// Family (1 or 2) that could not be had, and why.
    pub(crate) missing: Option<(u8, u16)>,
    pub(crate) wants_reservation: bool,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) client: Client,
    pub(crate) user: User,
    pub(crate) transport: RelayTransport,
    pub(crate) opening: Option<Box<Opening>>,
    /// Transaction of the Allocate request, and the answer for its retransmissions.
    pub(crate) transaction: [u8; 12],
    pub(crate) answer: Box<[u8]>,
    pub(crate) expires: Instant,
    pub(crate) relays: [Option<RelayId>; 2],
    pub(crate) permissions: Vec<Permission>,
    pub(crate) channels: Vec<Channel>,
    pub(crate) packets: Bucket,
    pub(crate) bytes: Bucket,
    pub(crate) new_peers: Bucket,
}

impl Allocation {
    pub(crate) fn permission(&self, peer: IpAddr, now: Instant) -> Option<&Permission> {
        self.permissions.iter().find(|known| known.peer == peer && known.expires > now)
    }

    /// The permission for data that came from an address of this machine's network.
    pub(crate) fn permission_from(&self, local: IpAddr, now: Instant) -> Option<&Permission> {
        self.permissions.iter().find(|known| known.locals.contains(&local) && known.expires > now)
    }

    pub(crate) fn channel(&self, number: u16, now: Instant) -> Option<&Channel> {
        self.channels.iter().find(|known| known.number == number && known.expires > now)
    }

    /// Whether data of this size is within the allocation's rate; counts it if so.
    pub(crate) fn admits(
        &mut self,
        bytes: usize,
        packet_rate: u32,
        byte_rate: u64,
        now: Instant,
    ) -> bool {
        let (packet_rate, bytes) = (u64::from(packet_rate), bytes as u64);
        let is_admitted =
            self.packets.has(1, packet_rate, now) && self.bytes.has(bytes, byte_rate, now);
        if is_admitted {
            self.packets.take(1, packet_rate, now);
            self.bytes.take(bytes, byte_rate, now);
        }
        is_admitted
    }
}
