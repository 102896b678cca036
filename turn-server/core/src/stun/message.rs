//! Reading STUN messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use thiserror::Error;

use super::attribute as a;
use super::{Class, FINGERPRINT_XOR, HEADER, MAGIC_COOKIE, Method, crc32, split_type};

/// Unknown attributes that are named in an answer; a longer list helps nobody.
const MAX_UNKNOWN: usize = 8;

/// Why bytes are not a STUN message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Too short, no magic cookie, or a length that does not fit the bytes.
    #[error("not a STUN message")]
    NotStun,
    /// An attribute reaches past the end of the message.
    #[error("an attribute reaches past the end")]
    Truncated,
    /// FINGERPRINT does not fit.
    #[error("the fingerprint does not fit")]
    Fingerprint,
}

/// A message with the attributes that a TURN server looks at. Attributes of a wrong form count
/// as `malformed`. Of repeated ones the first counts (RFC 8489 section 14).
#[derive(Debug, Clone)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Its class.
    pub class: Class,
    /// Its method.
    pub method: Method,
    /// Its transaction.
    pub transaction: [u8; 12],
    /// An attribute has a wrong form.
    pub malformed: bool,
    /// FINGERPRINT is there, and fits.
    pub fingerprint: bool,
    /// Where MESSAGE-INTEGRITY begins.
    pub integrity_at: Option<usize>,
    /// Where MESSAGE-INTEGRITY-SHA256 begins.
    pub integrity_sha256_at: Option<usize>,
    /// USERNAME.
    pub username: Option<&'a [u8]>,
    /// USERHASH.
    pub userhash: Option<&'a [u8; 32]>,
    /// REALM.
    pub realm: Option<&'a [u8]>,
    /// NONCE.
    pub nonce: Option<&'a [u8]>,
    /// Number in PASSWORD-ALGORITHM.
    pub password_algorithm: Option<u16>,
    /// Value of PASSWORD-ALGORITHMS.
    pub password_algorithms: Option<&'a [u8]>,
    /// CHANNEL-NUMBER.
    pub channel: Option<u16>,
    /// LIFETIME in seconds.
    pub lifetime_s: Option<u32>,
    /// First XOR-PEER-ADDRESS.
    pub peer: Option<SocketAddr>,
    /// Where DATA lies in the message.
    pub data: Option<Range<usize>>,
    /// Protocol number in REQUESTED-TRANSPORT.
    pub requested_transport: Option<u8>,
    /// REQUESTED-ADDRESS-FAMILY: 1 is IPv4, 2 IPv6.
    pub requested_family: Option<u8>,
    /// ADDITIONAL-ADDRESS-FAMILY.
    pub additional_family: Option<u8>,
    /// EVEN-PORT; whether the next port shall be reserved.
    pub even_port: Option<bool>,
    /// DONT-FRAGMENT.
    pub dont_fragment: bool,
    /// RESERVATION-TOKEN.
    pub reservation_token: Option<[u8; 8]>,
    /// CONNECTION-ID.
    pub connection: Option<u32>,
    unknown: [u16; MAX_UNKNOWN],
    unknown_count: usize,
}

impl<'a> Message<'a> {
    /// Reads a message that fills the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk::<HEADER>().ok_or(ParseError::NotStun)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if kind >= 0x4000
            || header[4..8] != MAGIC_COOKIE.to_be_bytes()
            || length % 4 != 0
            || bytes.len() != HEADER + length
        {
            return Err(ParseError::NotStun);
        }
        let (class, method) = split_type(kind);
        let mut message = Self::empty(bytes, class, method);
        message.transaction.copy_from_slice(&header[8..]);
        for attribute in attributes(bytes) {
            let (at, kind, value) = attribute?;
            message.take(at, kind, value)?;
        }
        Ok(message)
    }

    fn empty(bytes: &'a [u8], class: Class, method: Method) -> Self {
        Self {
            bytes,
            class,
            method,
            transaction: [0; 12],
            malformed: false,
            fingerprint: false,
            integrity_at: None,
            integrity_sha256_at: None,
            username: None,
            userhash: None,
            realm: None,
            nonce: None,
            password_algorithm: None,
            password_algorithms: None,
            channel: None,
            lifetime_s: None,
            peer: None,
            data: None,
            requested_transport: None,
            requested_family: None,
            additional_family: None,
            even_port: None,
            dont_fragment: false,
            reservation_token: None,
            connection: None,
            unknown: [0; MAX_UNKNOWN],
            unknown_count: 0,
        }
    }

    /// The bytes of the message.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Attributes that must be understood and are not.
    pub fn unknown(&self) -> &[u16] {
        &self.unknown[..self.unknown_count]
    }

    /// Every XOR-PEER-ADDRESS; `None` for one of a wrong form.
    pub fn peers(&self) -> impl Iterator<Item = Option<SocketAddr>> + '_ {
        let end = self.integrity_at.or(self.integrity_sha256_at).unwrap_or(self.bytes.len());
        attributes(self.bytes)
            .map_while(Result::ok)
            .take_while(move |(at, ..)| *at < end)
            .filter(|(_, kind, _)| *kind == a::XOR_PEER_ADDRESS)
            .map(|(_, _, value)| xor_address(value, &self.transaction))
    }

    fn take(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Result<(), ParseError> {
        // What follows the integrity attributes is not protected by them and is ignored, but for
        // the stronger one of them and the fingerprint (RFC 8489 sections 14.5 and 14.6).
        if kind == a::FINGERPRINT {
            let expected = crc32(&self.bytes[..at]) ^ FINGERPRINT_XOR;
            if value != expected.to_be_bytes() || at + 8 != self.bytes.len() {
                return Err(ParseError::Fingerprint);
            }
            self.fingerprint = true;
            return Ok(());
        }
        if self.integrity_sha256_at.is_some()
            || (self.integrity_at.is_some() && kind != a::MESSAGE_INTEGRITY_SHA256)
        {
            return Ok(());
        }
        let is_good =
            self.take_security(at, kind, value).or_else(|| self.take_turn(at, kind, value));
        match is_good {
            Some(is_good) => self.malformed |= !is_good,
            None if kind < 0x8000 => self.note_unknown(kind),
            None => {}
        }
        Ok(())
    }

    /// Whether the value is good; `None` when the attribute is of another kind.
    fn take_security(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Option<bool> {
        match kind {
            a::MESSAGE_INTEGRITY => {
                let is_good = value.len() == 20;
                self.integrity_at = is_good.then_some(at);
                Some(is_good)
            }
            a::MESSAGE_INTEGRITY_SHA256 => {
                let is_good = (16..=32).contains(&value.len()) && value.len().is_multiple_of(4);
                self.integrity_sha256_at = is_good.then_some(at);
                Some(is_good)
            }
            a::USERNAME => Some(set(&mut self.username, Some(value))),
            a::USERHASH => Some(set(&mut self.userhash, value.try_into().ok())),
            a::REALM => Some(set(&mut self.realm, Some(value))),
            a::NONCE => Some(set(&mut self.nonce, Some(value))),
            a::PASSWORD_ALGORITHM => Some(set(&mut self.password_algorithm, word(value))),
            a::PASSWORD_ALGORITHMS => Some(set(&mut self.password_algorithms, Some(value))),
            _ => None,
        }
    }

    fn take_turn(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Option<bool> {
        let first = (value.len() == 4).then(|| value[0]);
        let number = <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes);
        Some(match kind {
            a::CHANNEL_NUMBER => set(&mut self.channel, word(value)),
            a::LIFETIME => set(&mut self.lifetime_s, number),
            a::XOR_PEER_ADDRESS => {
                let address = xor_address(value, &self.transaction);
                address.is_some() && set(&mut self.peer, address)
            }
            a::DATA => set(&mut self.data, Some(at + 4..at + 4 + value.len())),
            a::REQUESTED_TRANSPORT => set(&mut self.requested_transport, first),
            a::REQUESTED_ADDRESS_FAMILY => set(&mut self.requested_family, first),
            a::ADDITIONAL_ADDRESS_FAMILY | a::ADDITIONAL_ADDRESS_FAMILY_DRAFT => {
                set(&mut self.additional_family, first)
            }
            a::EVEN_PORT => set(&mut self.even_port, value.first().map(|byte| byte & 0x80 != 0)),
            a::DONT_FRAGMENT => {
                self.dont_fragment = true;
                true
            }
            a::RESERVATION_TOKEN => set(&mut self.reservation_token, value.try_into().ok()),
            a::CONNECTION_ID => set(&mut self.connection, number),
            _ => return None,
        })
    }

    fn note_unknown(&mut self, kind: u16) {
        if self.unknown_count < MAX_UNKNOWN && !self.unknown().contains(&kind) {
            self.unknown[self.unknown_count] = kind;
            self.unknown_count += 1;
        }
    }
}

/// Keeps the first value of an attribute; tells whether this one has the right form.
fn set<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    let is_good = value.is_some();
    if field.is_none() {
        *field = value;
    }
    is_good
}

/// The first two bytes of a four-byte value as a number.
fn word(value: &[u8]) -> Option<u16> {
    (value.len() >= 4).then(|| u16::from_be_bytes([value[0], value[1]]))
}

/// Offset, type and value of each attribute.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(usize, u16, &[u8]), ParseError>> {
    let mut at = HEADER;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let Some((head, body)) = rest.split_first_chunk::<4>() else {
            at = bytes.len();
            return Some(Err(ParseError::Truncated));
        };
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let begin = at;
        at += 4 + length.next_multiple_of(4);
        if body.len() < length.next_multiple_of(4) {
            at = bytes.len();
            return Some(Err(ParseError::Truncated));
        }
        Some(Ok((begin, u16::from_be_bytes([head[0], head[1]]), &body[..length])))
    })
}

/// An address that is XORed with cookie and transaction (RFC 8489 section 14.2).
fn xor_address(value: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]) ^ (MAGIC_COOKIE >> 16) as u16;
    let ip = match (value[1], value.len()) {
        (1, 8) => {
            let bits = u32::from_be_bytes([value[4], value[5], value[6], value[7]]);
            IpAddr::V4(Ipv4Addr::from(bits ^ MAGIC_COOKIE))
        }
        (2, 20) => {
            let mut bits = [0; 16];
            bits.copy_from_slice(&value[4..]);
            let bits = u128::from_be_bytes(bits) ^ xor_mask(transaction);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// What an IPv6 address is XORed with: cookie, then transaction.
pub(super) fn xor_mask(transaction: &[u8; 12]) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    u128::from_be_bytes(mask)
}
