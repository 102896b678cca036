//! Keys of long-term credentials and the codes made with them (RFC 8489 sections 9.2.2, 14.5,
//! 14.6 and 18.5.1).

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{HEADER, Message};

/// How a key is made from a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// 1, the one of RFC 5389.
    Md5,
    /// 2.
    Sha256,
}

impl Algorithm {
    /// The number in PASSWORD-ALGORITHM.
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Md5),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }
}

/// Which integrity attribute a request has, and its answer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// A key. Its bytes never show in logs.
#[derive(Clone, Copy)]
pub struct Key {
    bytes: [u8; 32],
    length: usize,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// The key of a long-term credential.
    pub fn long_term(algorithm: Algorithm, username: &[u8], realm: &[u8], password: &[u8]) -> Self {
        let text = [username, realm, password].join(&b':');
        let mut bytes = [0; 32];
        let length = match algorithm {
            Algorithm::Md5 => {
                bytes[..16].copy_from_slice(&Md5::digest(text));
                16
            }
            Algorithm::Sha256 => {
                bytes.copy_from_slice(&Sha256::digest(text));
                32
            }
        };
        Self { bytes, length }
    }

    /// A key as it is: the password of a short-term credential, at most 32 bytes.
    pub fn raw(password: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..password.len())?.copy_from_slice(password);
        Some(Self { bytes, length: password.len() })
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What an answer is signed with: as its request was.
#[derive(Debug, Clone, Copy)]
pub struct Signer {
    /// The key.
    pub key: Key,
    /// The attribute.
    pub integrity: Integrity,
}

impl Signer {
    /// The code over a message that ends where its integrity attribute will begin.
    pub(super) fn code(&self, message: &[u8], code_length: usize) -> [u8; 32] {
        let mut code = [0; 32];
        // The length in the header counts the attribute that is being made.
        let length = (message.len() + 4 + code_length - HEADER) as u16;
        let parts = [&message[..2], &length.to_be_bytes(), &message[4..]];
        let expect = "HMAC takes keys of any length";
        match self.integrity {
            Integrity::Sha1 => {
                let mut mac = Hmac::<Sha1>::new_from_slice(self.key.bytes()).expect(expect);
                parts.iter().for_each(|part| mac.update(part));
                code[..20].copy_from_slice(&mac.finalize().into_bytes());
            }
            Integrity::Sha256 => {
                let mut mac = Hmac::<Sha256>::new_from_slice(self.key.bytes()).expect(expect);
                parts.iter().for_each(|part| mac.update(part));
                code.copy_from_slice(&mac.finalize().into_bytes());
            }
        }
        code
    }
}

impl Message<'_> {
    /// The strongest integrity attribute of the message.
    pub fn integrity(&self) -> Option<Integrity> {
        match (self.integrity_sha256_at, self.integrity_at) {
            (Some(_), _) => Some(Integrity::Sha256),
            (None, Some(_)) => Some(Integrity::Sha1),
            (None, None) => None,
        }
    }

    /// Whether the strongest integrity attribute was made with `key`; in constant time.
    pub fn is_authentic(&self, key: Key) -> bool {
        let (at, integrity) = match (self.integrity_sha256_at, self.integrity_at) {
            (Some(at), _) => (at, Integrity::Sha256),
            (None, Some(at)) => (at, Integrity::Sha1),
            (None, None) => return false,
        };
        let bytes = self.bytes();
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let code = Signer { key, integrity }.code(&bytes[..at], length);
        code[..length].ct_eq(&bytes[at + 4..at + 4 + length]).into()
    }
}
