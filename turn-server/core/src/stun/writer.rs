//! Writing STUN messages.

use std::net::{IpAddr, SocketAddr};

use super::attribute as a;
use super::message::xor_mask;
use super::{
    Class, FINGERPRINT_XOR, HEADER, Integrity, MAGIC_COOKIE, Method, Signer, crc32, join_type,
};

/// A message under way. Padding is always zero.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    transaction: [u8; 12],
}

impl Writer {
    /// Begins a message.
    pub fn new(class: Class, method: Method, transaction: [u8; 12]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&join_type(class, method).to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction);
        Self { bytes, transaction }
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = (self.bytes.len() - HEADER) as u16;
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        self
    }

    /// Appends a number of four bytes.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends ERROR-CODE (RFC 8489 section 14.8).
    pub fn error_code(&mut self, code: u16, reason: &str) -> &mut Self {
        let number = [0, 0, (code / 100) as u8, (code % 100) as u8];
        self.attribute(a::ERROR_CODE, &[&number, reason.as_bytes()].concat())
    }

    /// Appends an address, XORed.
    pub fn xor_address(&mut self, kind: u16, address: SocketAddr) -> &mut Self {
        let (value, length) = xor_address(address, &self.transaction);
        self.attribute(kind, &value[..length])
    }

    /// Appends an address as it is.
    pub fn address(&mut self, kind: u16, address: SocketAddr) -> &mut Self {
        let (port, mut value) = (address.port().to_be_bytes(), vec![0, 1]);
        value.extend_from_slice(&port);
        match address.ip() {
            IpAddr::V4(ip) => value.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => {
                value[1] = 2;
                value.extend_from_slice(&ip.octets());
            }
        }
        self.attribute(kind, &value)
    }

    /// Ends the message with integrity and fingerprint where they are wanted.
    pub fn finish(mut self, signer: Option<Signer>, fingerprint: bool) -> Vec<u8> {
        if let Some(signer) = signer {
            let (kind, length) = match signer.integrity {
                Integrity::Sha1 => (a::MESSAGE_INTEGRITY, 20),
                Integrity::Sha256 => (a::MESSAGE_INTEGRITY_SHA256, 32),
            };
            let code = signer.code(&self.bytes, length);
            self.attribute(kind, &code[..length]);
        }
        if fingerprint {
            let length = (self.bytes.len() + 8 - HEADER) as u16;
            self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
            let crc = crc32(&self.bytes) ^ FINGERPRINT_XOR;
            self.attribute(a::FINGERPRINT, &crc.to_be_bytes());
        }
        self.bytes
    }
}

/// Value and length of an XORed address (RFC 8489 section 14.2).
pub(crate) fn xor_address(address: SocketAddr, transaction: &[u8; 12]) -> ([u8; 20], usize) {
    let mut value = [0; 20];
    let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
    value[2..4].copy_from_slice(&port.to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            value[1] = 1;
            value[4..8].copy_from_slice(&(u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes());
            (value, 8)
        }
        IpAddr::V6(ip) => {
            value[1] = 2;
            value[4..].copy_from_slice(&(u128::from(ip) ^ xor_mask(transaction)).to_be_bytes());
            (value, 20)
        }
    }
}
