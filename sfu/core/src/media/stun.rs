//! The part of STUN (RFC 8489) that an ICE-lite agent needs: reading Binding requests, writing
//! their responses.

use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

/// Bytes of the header.
const HEADER: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
/// Bytes of a MESSAGE-INTEGRITY attribute with its header.
const INTEGRITY_LENGTH: usize = 24;
/// What FINGERPRINT is XORed with (RFC 8489 section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;

type HmacSha1 = Hmac<Sha1>;

/// A Binding request, parsed but not yet authenticated.
#[derive(Debug, PartialEq, Eq)]
pub struct BindingRequest<'a> {
    bytes: &'a [u8],
    transaction: [u8; 12],
    username: &'a str,
    /// Where MESSAGE-INTEGRITY begins.
    integrity_at: usize,
    /// The controlling agent nominates this pair (RFC 8445 section 7.3.1.5).
    pub use_candidate: bool,
    /// The peer believes that it is controlled, which an ICE-lite agent is (RFC 8445 section
    /// 7.3.1.1): a role conflict.
    pub controlled: bool,
}

impl<'a> BindingRequest<'a> {
    /// Reads a request that carries USERNAME and MESSAGE-INTEGRITY; `None` for all else. A
    /// FINGERPRINT, where present, must fit.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if u16::from_be_bytes([header[0], header[1]]) != BINDING_REQUEST
            || u32::from_be_bytes([header[4], header[5], header[6], header[7]]) != MAGIC_COOKIE
            || length % 4 != 0
            || bytes.len() != HEADER + length
        {
            return None;
        }
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&header[8..]);
        let (mut username, mut integrity_at) = (None, None);
        let (mut use_candidate, mut controlled) = (false, false);
        let mut attributes = Attributes { bytes, at: HEADER };
        for (at, kind, value) in attributes.by_ref() {
            match kind {
                FINGERPRINT => {
                    let expected = crc32(&bytes[..at]) ^ FINGERPRINT_XOR;
                    if value != expected.to_be_bytes() {
                        return None;
                    }
                }
                // What follows MESSAGE-INTEGRITY is not protected by it and is ignored.
                _ if integrity_at.is_some() => {}
                USERNAME => username = Some(std::str::from_utf8(value).ok()?),
                MESSAGE_INTEGRITY if value.len() == 20 => integrity_at = Some(at),
                USE_CANDIDATE => use_candidate = true,
                ICE_CONTROLLED => controlled = true,
                _ => {}
            }
        }
        if attributes.at != bytes.len() {
            return None;
        }
        let (username, integrity_at) = (username?, integrity_at?);
        Some(Self { bytes, transaction, username, integrity_at, use_candidate, controlled })
    }

    /// Our username fragment: the part of USERNAME before the colon.
    pub fn local_ufrag(&self) -> &'a str {
        self.username.split_once(':').map_or(self.username, |(local, _)| local)
    }

    /// The peer's username fragment.
    pub fn remote_ufrag(&self) -> &'a str {
        self.username.split_once(':').map_or("", |(_, remote)| remote)
    }

    /// Whether MESSAGE-INTEGRITY was made with our password `pwd`.
    pub fn is_authentic(&self, pwd: &str) -> bool {
        let received = &self.bytes[self.integrity_at + 4..self.integrity_at + INTEGRITY_LENGTH];
        let mac = integrity(&self.bytes[..self.integrity_at], pwd);
        mac.as_slice().ct_eq(received).into()
    }

    /// Writes the success response, which tells the peer the address it came from.
    pub fn success(&self, source: SocketAddr, pwd: &str, out: &mut Vec<u8>) {
        begin(BINDING_SUCCESS, &self.transaction, out);
        append_mapped_address(source, &self.transaction, out);
        finish(pwd, out);
    }

    /// Writes an error response.
    pub fn error(&self, code: u16, reason: &str, pwd: &str, out: &mut Vec<u8>) {
        begin(BINDING_ERROR, &self.transaction, out);
        let mut value = vec![0, 0, (code / 100) as u8, (code % 100) as u8];
        value.extend_from_slice(reason.as_bytes());
        append(ERROR_CODE, &value, out);
        finish(pwd, out);
    }
}

/// Writes a connectivity check to an agent with the credentials `to`, as a client would: for
/// peers of tests and load.
pub fn write_check(to: &super::IceCredentials, from: &str, nominate: bool) -> Vec<u8> {
    let mut out = Vec::new();
    begin(BINDING_REQUEST, b"0123456789ab", &mut out);
    append(USERNAME, format!("{}:{from}", to.ufrag).as_bytes(), &mut out);
    if nominate {
        append(USE_CANDIDATE, &[], &mut out);
    }
    finish(&to.pwd, &mut out);
    out
}

/// Walks over attributes: offset, type, value.
struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (usize, u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.bytes.get(self.at..self.at + 4)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = self.bytes.get(self.at + 4..self.at + 4 + length)?;
        let at = self.at;
        self.at += 4 + length.next_multiple_of(4);
        Some((at, kind, value))
    }
}

fn begin(kind: u16, transaction: &[u8; 12], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(transaction);
}

fn append(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    let length = (out.len() - HEADER) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
}

fn append_mapped_address(address: SocketAddr, transaction: &[u8; 12], out: &mut Vec<u8>) {
    let cookie = MAGIC_COOKIE.to_be_bytes();
    let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let mut value = vec![0, 0];
    value.extend_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            value[1] = 1;
            value.extend(ip.octets().iter().zip(cookie).map(|(byte, key)| byte ^ key));
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            let keys = cookie.into_iter().chain(transaction.iter().copied());
            value.extend(ip.octets().iter().zip(keys).map(|(byte, key)| byte ^ key));
        }
    }
    append(XOR_MAPPED_ADDRESS, &value, out);
}

/// Appends MESSAGE-INTEGRITY and FINGERPRINT.
fn finish(pwd: &str, out: &mut Vec<u8>) {
    let mac = integrity(out, pwd);
    append(MESSAGE_INTEGRITY, &mac, out);
    // FINGERPRINT covers a header whose length already counts it.
    let length = (out.len() + 8 - HEADER) as u16;
    out[2..4].copy_from_slice(&length.to_be_bytes());
    let fingerprint = crc32(out) ^ FINGERPRINT_XOR;
    append(FINGERPRINT, &fingerprint.to_be_bytes(), out);
}

/// HMAC-SHA1 over `message`, with the header's length as if MESSAGE-INTEGRITY ended it
/// (RFC 8489 section 14.5).
fn integrity(message: &[u8], pwd: &str) -> [u8; 20] {
    let length = (message.len() + INTEGRITY_LENGTH - HEADER) as u16;
    let mut mac =
        HmacSha1::new_from_slice(pwd.as_bytes()).expect("HMAC takes keys of every length");
    mac.update(&message[..2]);
    mac.update(&length.to_be_bytes());
    mac.update(&message[4..]);
    mac.finalize().into_bytes().into()
}

/// CRC-32 as in ITU-T V.42.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    !bytes
        .iter()
        .fold(!0, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PWD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

    /// RFC 5769 section 2.1: a request with every attribute of a connectivity check.
    const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae\
        802200105354554e207465737420636c69656e74\
        002400046e0001ff80290008932ff9b151263b36\
        000600096576746a3a68367659202020\
        000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
        80280004e57a3bcf";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn the_sample_request_of_rfc_5769_is_read_and_authentic() {
        let bytes = unhex(REQUEST);
        let request = BindingRequest::parse(&bytes).unwrap();
        assert_eq!((request.local_ufrag(), request.remote_ufrag()), ("evtj", "h6vY"));
        assert!(request.controlled);
        assert!(!request.use_candidate);
        assert!(request.is_authentic(PWD));
        assert!(!request.is_authentic("another password"));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let bytes = unhex(REQUEST);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let accepted =
                BindingRequest::parse(&changed).is_some_and(|request| request.is_authentic(PWD));
            // A changed type of FINGERPRINT makes it an attribute that nothing covers.
            let in_fingerprint_type = (bytes.len() - 8..bytes.len() - 6).contains(&(bit / 8));
            assert!(!accepted || in_fingerprint_type, "bit {bit}");
        }
    }

    #[test]
    fn no_prefix_panics_or_is_accepted() {
        let bytes = unhex(REQUEST);
        for length in 0..bytes.len() {
            assert_eq!(BindingRequest::parse(&bytes[..length]), None);
        }
    }

    #[test]
    fn a_success_response_is_as_in_rfc_5769() {
        // Section 2.2 without SOFTWARE, whose padding is not zero there.
        let bytes = unhex(REQUEST);
        let request = BindingRequest::parse(&bytes).unwrap();
        let mut out = Vec::new();
        request.success("192.0.2.1:32853".parse().unwrap(), PWD, &mut out);
        assert_eq!(&out[..2], &[1, 1]);
        assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), out.len() - HEADER);
        assert_eq!(&out[HEADER..HEADER + 12], &unhex("002000080001a147e112a643")[..]);
        let (at, _, mac) = Attributes { bytes: &out, at: HEADER }
            .find(|item| item.1 == MESSAGE_INTEGRITY)
            .unwrap();
        assert_eq!(mac, integrity(&out[..at], PWD));
        let (at, _, crc) =
            Attributes { bytes: &out, at: HEADER }.find(|item| item.1 == FINGERPRINT).unwrap();
        assert_eq!(crc, (crc32(&out[..at]) ^ FINGERPRINT_XOR).to_be_bytes());
    }

    #[test]
    fn an_ipv6_address_is_xored_with_the_transaction_too() {
        // RFC 5769 section 2.3.
        let bytes = unhex(REQUEST);
        let request = BindingRequest::parse(&bytes).unwrap();
        let mut out = Vec::new();
        let source = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        request.success(source, PWD, &mut out);
        let expected = unhex("002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9");
        assert_eq!(&out[HEADER..HEADER + 24], &expected[..]);
    }
}
