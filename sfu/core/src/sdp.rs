//! Session descriptions (RFC 8866, RFC 8829) between a client and us.
//!
//! [`Description::parse`] reads what a client sent into what we can use of it; [`write()`]
//! makes our own offers and answers. Everything is bundled on one transport, we are ICE-lite,
//! and our candidates are in the description.

mod codecs;
mod parse;
mod write;

pub use codecs::{
    accepted_codecs, offered_codecs, prefer, published_codecs, sending_extensions, set_opus,
};
pub use parse::{Description, SdpError};
pub use write::{LocalMedia, LocalSection, LocalTransport, candidate_line, write};

use crate::media::{
    Codec, ExtensionIds, Fingerprint, IceCredentials, MediaKind, Mid, Rid, SsrcPair,
};

/// Most bytes of a description: what fits into a signal message.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Most media sections of a description: several hundred tracks each way.
pub const MAX_SECTIONS: usize = 1024;
/// Largest data channel message, bytes, that we take and send.
pub const MAX_MESSAGE_SIZE: u32 = 65_535;

/// Who sends media in a section, seen from the description's author (RFC 8866 section 6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Both sides.
    SendRecv,
    /// Only the author.
    SendOnly,
    /// Only the reader.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// Whether the author sends.
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the author receives.
    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }
}

/// The author's part in the DTLS handshake (RFC 4145, RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Begins the handshake.
    Active,
    /// Waits for it.
    Passive,
    /// Leaves it to the answerer.
    ActPass,
}

/// What a media section carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// RTP.
    Rtp(MediaKind),
    /// Data channels over SCTP.
    Data,
    /// Something that we reject.
    Unknown,
}

/// `a=msid` (RFC 8830).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msid {
    /// The stream's id.
    pub stream: String,
    /// The track's id; LiveKit's `cid`.
    pub track: String,
}

/// One media section of a client's description.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Its name.
    pub mid: Mid,
    /// What it carries.
    pub kind: SectionKind,
    /// First word of the `m=` line, repeated when we reject it.
    pub media: String,
    /// Protocol of the `m=` line.
    pub protocol: String,
    /// The client closed or refused it (port 0 outside of a bundle).
    pub rejected: bool,
    /// Who sends.
    pub direction: Direction,
    /// Codecs that we can forward, in the client's order.
    pub codecs: Vec<Codec>,
    /// Header extensions that we know.
    pub extensions: ExtensionIds,
    /// Simulcast layers that the client sends, as listed.
    pub send_rids: Vec<Rid>,
    /// Synchronization sources that the client sends.
    pub ssrcs: Vec<SsrcPair>,
    /// Which track it sends.
    pub msid: Option<Msid>,
    /// The client's ICE credentials.
    pub ice: Option<IceCredentials>,
    /// The client's certificate.
    pub fingerprint: Option<Fingerprint>,
    /// The client's part in the handshake.
    pub setup: Setup,
}

#[cfg(test)]
mod tests;
