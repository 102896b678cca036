//! What the server counts; the program turns it into metrics.

/// Why something was not relayed or not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Neither STUN nor channel data, or a broken message.
    Malformed,
    /// An answer, or an indication that nobody sends to a server.
    Unexpected,
    /// Data from a client without an allocation.
    NoAllocation,
    /// Data on a channel that is not bound.
    NoChannel,
    /// Data to or from a peer without a permission.
    NoPermission,
    /// Data to a peer that is not allowed.
    PeerDenied,
    /// More than the allocation's packets or bytes a second.
    Rate,
    /// More challenges than a source may cause.
    ChallengeBudget,
    /// Data or an answer for a relay that is closed.
    Stale,
    /// Data too long for its header.
    TooLong,
}

impl DropReason {
    /// All reasons, in the order of `Counters::dropped`.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::Unexpected,
        Self::NoAllocation,
        Self::NoChannel,
        Self::NoPermission,
        Self::PeerDenied,
        Self::Rate,
        Self::ChallengeBudget,
        Self::Stale,
        Self::TooLong,
    ];

    /// Value of a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unexpected => "unexpected",
            Self::NoAllocation => "no_allocation",
            Self::NoChannel => "no_channel",
            Self::NoPermission => "no_permission",
            Self::PeerDenied => "peer_denied",
            Self::Rate => "rate",
            Self::ChallengeBudget => "challenge_budget",
            Self::Stale => "stale",
            Self::TooLong => "too_long",
        }
    }
}

/// Error codes that are counted; others do not occur.
pub const ERROR_CODES: [u16; 15] =
    [300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 508];

/// Totals since the start, and what there is at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Allocations that exist.
    pub allocations: u64,
    /// Allocations made since the start.
    pub allocations_made: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// Datagrams from clients to peers.
    pub to_peer_packets: u64,
    /// Their bytes, without headers.
    pub to_peer_bytes: u64,
    /// Datagrams from peers to clients.
    pub to_client_packets: u64,
    /// Their bytes, without headers.
    pub to_client_bytes: u64,
    /// Error answers by code, in the order of [`ERROR_CODES`].
    pub errors: [u64; ERROR_CODES.len()],
    /// What was dropped, in the order of [`DropReason::ALL`].
    pub dropped: [u64; DropReason::ALL.len()],
}

impl Counters {
    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.dropped[reason as usize] += 1;
    }

    pub(crate) fn error(&mut self, code: u16) {
        if let Some(index) = ERROR_CODES.iter().position(|known| *known == code) {
            self.errors[index] += 1;
        }
    }

    /// How often something was dropped for a reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }
}
