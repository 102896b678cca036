//! SRTP and SRTCP (RFC 3711, RFC 7714): one direction of one transport, in place, without
//! allocation.
//!
//! The sender of a stream knows its own packet index, so [`Outbound`] keeps no state for RTP:
//! the rollover counter is an argument. [`Inbound`] keeps one for each synchronization source,
//! made only by a packet that verified.

mod cipher;
mod replay;

use rustc_hash::FxHashMap;
use thiserror::Error;

use cipher::{Cipher, RtcpCipher};

pub(super) use replay::ReplayWindow;

/// Most synchronization sources that one transport may send; more are refused, since each
/// keeps state.
const MAX_SOURCES: usize = 512;
/// Bytes of the SRTCP index word.
const INDEX_LENGTH: usize = 4;
/// The flag in the SRTCP index word that says that the packet is encrypted.
const ENCRYPTED: u32 = 0x8000_0000;
/// Bytes of RTCP that stay readable: the first header and the sender's SSRC.
const RTCP_HEADER: usize = 8;

/// Protection profiles (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// `SRTP_AEAD_AES_128_GCM`
    AeadAes128Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80`
    Aes128CmSha1_80,
}

impl SrtpProfile {
    const KEY_LENGTH: usize = 16;

    /// Bytes of a master salt.
    pub fn salt_length(self) -> usize {
        match self {
            Self::AeadAes128Gcm => 12,
            Self::Aes128CmSha1_80 => 14,
        }
    }

    /// Bytes that the DTLS exporter must give for both directions.
    pub fn keying_material_length(self) -> usize {
        2 * (Self::KEY_LENGTH + self.salt_length())
    }

    /// Bytes that protection adds to an RTP packet.
    pub fn rtp_overhead(self) -> usize {
        match self {
            Self::AeadAes128Gcm => 16,
            Self::Aes128CmSha1_80 => 10,
        }
    }
}

/// Why a packet was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SrtpError {
    /// Too short to hold what it must.
    #[error("packet is too short")]
    Short,
    /// The authentication tag does not fit.
    #[error("packet is not authentic")]
    Authentication,
    /// Seen before, or too old to tell.
    #[error("packet was replayed")]
    Replay,
    /// The transport sends more synchronization sources than are allowed.
    #[error("too many synchronization sources")]
    TooManySources,
    /// All packet indices of a key were used.
    #[error("the key's lifetime has ended")]
    KeyExhausted,
}

/// Makes the two directions of a transport from the DTLS exporter's bytes (RFC 5764 section
/// 4.2); `is_client` tells our part in the handshake. `None` when the length does not fit.
pub fn from_keying_material(
    profile: SrtpProfile,
    material: &[u8],
    is_client: bool,
) -> Option<(Inbound, Outbound)> {
    if material.len() != profile.keying_material_length() {
        return None;
    }
    let (keys, salts) = material.split_at(2 * SrtpProfile::KEY_LENGTH);
    let (client_key, server_key) = keys.split_at(SrtpProfile::KEY_LENGTH);
    let (client_salt, server_salt) = salts.split_at(profile.salt_length());
    let client = (client_key.first_chunk()?, client_salt);
    let server = (server_key.first_chunk()?, server_salt);
    let (ours, theirs) = if is_client { (client, server) } else { (server, client) };
    Some((Inbound::new(profile, theirs.0, theirs.1), Outbound::new(profile, ours.0, ours.1)))
}

/// Takes protection off what a peer sends.
pub struct Inbound {
    rtp: Cipher,
    rtcp: RtcpCipher,
    rtp_sources: FxHashMap<u32, RtpSource>,
    rtcp_sources: FxHashMap<u32, ReplayWindow>,
}

struct RtpSource {
    /// Highest packet index that verified: rollover counter and sequence number.
    highest: u64,
    window: ReplayWindow,
}

impl Inbound {
    /// Derives the session keys of `master_key` and `master_salt`.
    pub fn new(profile: SrtpProfile, master_key: &[u8; 16], master_salt: &[u8]) -> Self {
        let (rtp, rtcp) = cipher::derive(profile, master_key, master_salt);
        Self { rtp, rtcp, rtp_sources: FxHashMap::default(), rtcp_sources: FxHashMap::default() }
    }

    /// Verifies and decrypts the RTP packet in `packet`, whose header (with extensions) is
    /// `header_length` bytes long; returns the length of the plain packet and its index.
    pub fn unprotect_rtp(
        &mut self,
        packet: &mut [u8],
        header_length: usize,
    ) -> Result<(usize, u64), SrtpError> {
        let header = packet.first_chunk::<12>().ok_or(SrtpError::Short)?;
        let sequence = u16::from_be_bytes([header[2], header[3]]);
        let ssrc = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let source = self.rtp_sources.get(&ssrc);
        if source.is_none() && self.rtp_sources.len() >= MAX_SOURCES {
            return Err(SrtpError::TooManySources);
        }
        let index =
            source.map_or_else(|| u64::from(sequence), |source| guess(source.highest, sequence));
        if source.is_some_and(|source| !source.window.is_new(index)) {
            return Err(SrtpError::Replay);
        }
        let length = self.rtp.open(packet, header_length, ssrc, index)?;
        let source = self
            .rtp_sources
            .entry(ssrc)
            .or_insert_with(|| RtpSource { highest: index, window: ReplayWindow::default() });
        source.highest = source.highest.max(index);
        source.window.insert(index);
        Ok((length, index))
    }

    /// Verifies and decrypts a compound RTCP packet; returns the length of the plain one.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let header = packet.first_chunk::<RTCP_HEADER>().ok_or(SrtpError::Short)?;
        let ssrc = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if !self.rtcp_sources.contains_key(&ssrc) && self.rtcp_sources.len() >= MAX_SOURCES {
            return Err(SrtpError::TooManySources);
        }
        let index = self.rtcp.index(packet)?;
        if self.rtcp_sources.get(&ssrc).is_some_and(|window| !window.is_new(u64::from(index))) {
            return Err(SrtpError::Replay);
        }
        let length = self.rtcp.open(packet, ssrc)?;
        self.rtcp_sources.entry(ssrc).or_default().insert(u64::from(index));
        Ok(length)
    }
}

/// The packet index nearest to the highest one that has this sequence number (RFC 3711
/// section 3.3.1).
fn guess(highest: u64, sequence: u16) -> u64 {
    let rollover = highest >> 16;
    let base = rollover << 16 | u64::from(sequence);
    let last = highest as u16;
    if sequence < last && last - sequence > 0x8000 {
        base + (1 << 16)
    } else if sequence > last && sequence - last > 0x8000 && rollover > 0 {
        base - (1 << 16)
    } else {
        base
    }
}

/// Protects what we send.
pub struct Outbound {
    profile: SrtpProfile,
    rtp: Cipher,
    rtcp: RtcpCipher,
    rtcp_index: u32,
}

impl Outbound {
    /// Derives the session keys of `master_key` and `master_salt`.
    pub fn new(profile: SrtpProfile, master_key: &[u8; 16], master_salt: &[u8]) -> Self {
        let (rtp, rtcp) = cipher::derive(profile, master_key, master_salt);
        Self { profile, rtp, rtcp, rtcp_index: 0 }
    }

    /// Which profile protects.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Encrypts the RTP packet at `start..` of `buffer` and appends its tag. `index` is the
    /// packet's rollover counter and sequence number; the caller never uses one twice for
    /// different packets of one SSRC, since that would break AES-GCM and AES-CM.
    pub fn protect_rtp(
        &self,
        buffer: &mut Vec<u8>,
        start: usize,
        header_length: usize,
        ssrc: u32,
        index: u64,
    ) -> Result<(), SrtpError> {
        if index >> 48 != 0 {
            return Err(SrtpError::KeyExhausted);
        }
        self.rtp.seal(buffer, start, header_length, ssrc, index)
    }

    /// Encrypts the compound RTCP packet in `packet` and appends what SRTCP adds.
    pub fn protect_rtcp(&mut self, packet: &mut Vec<u8>) -> Result<(), SrtpError> {
        let header = packet.first_chunk::<RTCP_HEADER>().ok_or(SrtpError::Short)?;
        let ssrc = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if self.rtcp_index == ENCRYPTED {
            return Err(SrtpError::KeyExhausted);
        }
        self.rtcp.seal(packet, ssrc, self.rtcp_index)?;
        self.rtcp_index += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
