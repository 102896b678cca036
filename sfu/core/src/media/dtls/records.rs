//! Records of DTLS 1.2 once the handshake is done (RFC 6347 section 4.1), with AES-128-GCM (RFC
//! 5288): all that data channels need of an association, in a kilobyte instead of the tens of
//! kilobytes that a library keeps for it.

use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;

use super::super::DtlsRole;
use super::super::srtp::ReplayWindow;

/// Content types (RFC 5246 section 6.2.1).
pub const ALERT: u8 = 21;
/// See [`ALERT`].
pub const HANDSHAKE: u8 = 22;
/// See [`ALERT`].
pub const APPLICATION_DATA: u8 = 23;

/// Bytes of a record's header: type, version, epoch, sequence number, length.
const HEADER: usize = 13;
const VERSION: [u8; 2] = [0xFE, 0xFD];
/// The epoch of the first and only handshake.
const EPOCH: u16 = 1;
const SEQUENCE_LIMIT: u64 = 1 << 48;
/// Bytes of the part of the nonce that a record carries.
const EXPLICIT: usize = 8;
const TAG: usize = 16;
const KEY: usize = 16;
const SALT: usize = 4;

/// What a handshake agreed on.
pub struct Secrets<'a> {
    /// The master secret, 48 bytes.
    pub master: &'a [u8],
    /// The client's random bytes, 32.
    pub client_random: &'a [u8],
    /// The server's random bytes, 32.
    pub server_random: &'a [u8],
}

/// A record as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Content type.
    pub content: u8,
    /// 0 before encryption.
    pub epoch: u16,
    /// 48 bits.
    pub sequence: u64,
    /// What follows the header.
    pub fragment: &'a [u8],
}

/// The records of a datagram, up to the first that is malformed.
pub fn records(mut datagram: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = datagram.split_first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let (fragment, rest) = rest.split_at_checked(length)?;
        datagram = rest;
        let number = header[3..11].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Some(Record {
            content: header[0],
            epoch: (number >> 48) as u16,
            sequence: number % SEQUENCE_LIMIT,
            fragment,
        })
    })
}

/// How far the handshake's library came, read from what it sent and got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sequence number and explicit nonce of its last encrypted record.
    sent: Option<(u64, u64)>,
    /// Highest sequence number of the peer's encrypted records.
    received: Option<u64>,
}

impl Progress {
    /// Notes a datagram that was sent.
    pub fn note_sent(&mut self, datagram: &[u8]) {
        for record in records(datagram).filter(|record| record.epoch == EPOCH) {
            if let Some(nonce) = record.fragment.first_chunk() {
                self.sent = Some((record.sequence, u64::from_be_bytes(*nonce)));
            }
        }
    }

    /// Notes a datagram that came.
    pub fn note_received(&mut self, datagram: &[u8]) {
        for record in records(datagram).filter(|record| record.epoch == EPOCH) {
            self.received = self.received.max(Some(record.sequence));
        }
    }
}

/// Protects and opens the records of one association.
pub struct RecordProtection {
    sealing: Direction,
    opening: Direction,
    next_sequence: u64,
    /// Continues the library's, so that no nonce is used twice.
    next_nonce: u64,
    replay: ReplayWindow,
}

struct Direction {
    key: LessSafeKey,
    salt: [u8; SALT],
}

impl Direction {
    fn new(key: &[u8], salt: &[u8]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).ok()?);
        Some(Self { key, salt: salt.try_into().ok()? })
    }

    fn nonce(&self, explicit: [u8; EXPLICIT]) -> Nonce {
        let mut nonce = [0; SALT + EXPLICIT];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(&explicit);
        Nonce::assume_unique_for_key(nonce)
    }
}

impl RecordProtection {
    /// Goes on where the library is that did the handshake. `None` when it sent no encrypted
    /// record: its handshake is not done.
    pub fn new(secrets: &Secrets<'_>, role: DtlsRole, progress: Progress) -> Option<Self> {
        let (sequence, nonce) = progress.sent?;
        // RFC 5246 section 6.3; an AEAD has no MAC keys.
        let mut block = [0; 2 * (KEY + SALT)];
        let seed = [b"key expansion".as_slice(), secrets.server_random, secrets.client_random];
        expand(secrets.master, &seed.concat(), &mut block);
        let (keys, salts) = block.split_at(2 * KEY);
        let client = Direction::new(&keys[..KEY], &salts[..SALT])?;
        let server = Direction::new(&keys[KEY..], &salts[SALT..])?;
        let (sealing, opening) = match role {
            DtlsRole::Client => (client, server),
            DtlsRole::Server => (server, client),
        };
        let replay = progress.received.map_or_else(ReplayWindow::default, ReplayWindow::seen_to);
        let (next_sequence, next_nonce) = (sequence + 1, nonce.wrapping_add(1));
        Some(Self { sealing, opening, next_sequence, next_nonce, replay })
    }

    /// Makes a record. `None` when all sequence numbers are used up.
    pub fn seal(&mut self, content: u8, data: &[u8]) -> Option<Vec<u8>> {
        let sequence = self.next_sequence;
        let fragment = u16::try_from(EXPLICIT + data.len() + TAG).ok()?;
        if sequence >= SEQUENCE_LIMIT {
            return None;
        }
        let explicit = self.next_nonce.to_be_bytes();
        self.next_sequence += 1;
        self.next_nonce = self.next_nonce.wrapping_add(1);

        let mut record = Vec::with_capacity(HEADER + usize::from(fragment));
        record.push(content);
        record.extend_from_slice(&VERSION);
        record.extend_from_slice(&number(sequence));
        record.extend_from_slice(&fragment.to_be_bytes());
        record.extend_from_slice(&explicit);
        record.extend_from_slice(data);
        let aad = additional_data(content, sequence, data.len());
        let sealed = &mut record[HEADER + EXPLICIT..];
        let nonce = self.sealing.nonce(explicit);
        let tag = self.sealing.key.seal_in_place_separate_tag(nonce, Aad::from(aad), sealed);
        record.extend_from_slice(tag.ok()?.as_ref());
        Some(record)
    }

    /// Decrypts a record. `None` for one that is forged, or from before the encryption. The flag
    /// says that it came before, or is too old to know.
    pub fn open(&mut self, record: Record<'_>) -> Option<(bool, Vec<u8>)> {
        if record.epoch != EPOCH {
            return None;
        }
        let (explicit, sealed) = record.fragment.split_first_chunk()?;
        let length = sealed.len().checked_sub(TAG)?;
        let aad = additional_data(record.content, record.sequence, length);
        let nonce = self.opening.nonce(*explicit);
        let mut data = sealed.to_vec();
        self.opening.key.open_in_place(nonce, Aad::from(aad), &mut data).ok()?;
        data.truncate(length);
        let is_new = self.replay.is_new(record.sequence);
        if is_new {
            self.replay.insert(record.sequence);
        }
        Some((!is_new, data))
    }
}

/// Epoch and sequence number.
fn number(sequence: u64) -> [u8; 8] {
    (u64::from(EPOCH) << 48 | sequence).to_be_bytes()
}

/// RFC 5246 section 6.2.3.3.
fn additional_data(content: u8, sequence: u64, length: usize) -> [u8; HEADER] {
    let mut data = [0; HEADER];
    data[..8].copy_from_slice(&number(sequence));
    data[8] = content;
    data[9..11].copy_from_slice(&VERSION);
    data[11..].copy_from_slice(&(length as u16).to_be_bytes());
    data
}

/// `P_SHA256` of RFC 5246 section 5.
fn expand(secret: &[u8], seed: &[u8], out: &mut [u8]) {
    let digest = |parts: [&[u8]; 2]| {
        let mut hmac =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of every length");
        parts.iter().for_each(|part| hmac.update(part));
        hmac.finalize().into_bytes()
    };
    let mut a = digest([seed, &[]]);
    for chunk in out.chunks_mut(a.len()) {
        chunk.copy_from_slice(&digest([&a, seed])[..chunk.len()]);
        a = digest([&a, &[]]);
    }
}

#[cfg(test)]
mod tests;
