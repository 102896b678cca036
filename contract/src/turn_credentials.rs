//! Credentials of TURN clients that a server can check without storing them: LiveKit's scheme,
//! derived from an API key pair, and the REST scheme, derived from one shared secret. The media
//! node makes them, the TURN server verifies them. Expiry is in the username; whether it has
//! passed is the caller's question, since it holds the clock.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Longest username that is parsed, in bytes (USERNAME, RFC 8489 section 14.3).
pub const MAX_USERNAME_BYTES: usize = 508;

/// A username and its password, as a client gets them in `ice_servers`.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnCredentials {
    /// USERNAME of the client's requests.
    pub username: String,
    /// The long-term password.
    pub password: String,
}

impl std::fmt::Debug for TurnCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnCredentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a username of LiveKit's scheme says: base62 of `apiKey|participant|expiry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKitUser {
    /// Whose secret makes the password.
    pub api_key: String,
    /// Participant that the credentials were made for.
    pub participant: String,
    /// Seconds since 1970 after which no allocation is made.
    pub expiry_s: u64,
}

impl LiveKitUser {
    /// Makes the credentials with the secret of `api_key`.
    pub fn credentials(&self, secret: &str) -> TurnCredentials {
        let Self { api_key, participant, expiry_s } = self;
        let username = base62_encode(format!("{api_key}|{participant}|{expiry_s}").as_bytes());
        TurnCredentials { username, password: self.password(secret) }
    }

    /// Reads a username; `None` when it is not of this scheme.
    pub fn parse(username: &str) -> Option<Self> {
        let text = String::from_utf8(base62_decode(username)?).ok()?;
        let mut parts = text.split('|');
        let (api_key, participant, expiry) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || api_key.is_empty() {
            return None;
        }
        let expiry_s = decimal(expiry)?;
        Some(Self { api_key: api_key.into(), participant: participant.into(), expiry_s })
    }

    /// The password that belongs to this username.
    pub fn password(&self, secret: &str) -> String {
        let Self { api_key: _, participant, expiry_s } = self;
        let digest = Sha256::digest(format!("{secret}|{participant}|{expiry_s}").as_bytes());
        base62_encode(&digest)
    }
}

/// What a username of the REST scheme says: `expiry:user`, or `expiry` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestUser<'a> {
    /// Seconds since 1970 after which no allocation is made.
    pub expiry_s: u64,
    /// Who the credentials were made for; may be empty.
    pub user: &'a str,
}

impl<'a> RestUser<'a> {
    /// Makes the credentials with a shared secret.
    pub fn credentials(&self, secret: &str) -> TurnCredentials {
        let Self { expiry_s, user } = self;
        let username =
            if user.is_empty() { expiry_s.to_string() } else { format!("{expiry_s}:{user}") };
        let password = Self::password(secret, &username);
        TurnCredentials { username, password }
    }

    /// Reads a username; `None` when it is not of this scheme.
    pub fn parse(username: &'a str) -> Option<Self> {
        let (expiry, user) = username.split_once(':').unwrap_or((username, ""));
        Some(Self { expiry_s: decimal(expiry)?, user })
    }

    /// The password that belongs to a username: base64 of its HMAC-SHA1.
    pub fn password(secret: &str, username: &str) -> String {
        let mut mac =
            Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(username.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// Digits only: `parse` alone would take a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

const BASE62: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Digits 30 and 31 stand for five bits, since 62 digits cannot name all values of six.
const FIVE_BITS: u8 = 0b1_1110;

/// LiveKit's base62: bits from the end of the last byte, six a digit, or five where the low five
/// are 30 or 31.
fn base62_encode(bytes: &[u8]) -> String {
    let bit = |index: usize| bytes[bytes.len() - 1 - index / 8] >> (index % 8) & 1;
    let total = bytes.len() * 8;
    let mut text = String::with_capacity(total / 5 + 1);
    let mut at = 0;
    while at < total {
        let width = (total - at).min(6);
        let value = (0..width).fold(0, |value, index| value | bit(at + index) << index);
        let is_short = value & FIVE_BITS == FIVE_BITS;
        // At the end, a sixth bit that is zero need not be written.
        let used =
            if is_short && (at + width < total || value >= 32) { width.min(5) } else { width };
        let digit = if is_short { value % 32 } else { value };
        text.push(char::from(BASE62[usize::from(digit)]));
        at += used;
    }
    text
}

fn base62_decode(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || text.len() > MAX_USERNAME_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 6 / 8 + 1);
    let (mut pending, mut bits) = (0_u32, 0);
    for (index, symbol) in text.bytes().enumerate() {
        let digit = BASE62.iter().position(|candidate| *candidate == symbol)? as u8;
        pending |= u32::from(digit) << bits;
        bits += if index + 1 == text.len() {
            // Leading zeros of the first byte are not written.
            u8::BITS - digit.leading_zeros()
        } else if digit & FIVE_BITS == FIVE_BITS {
            5
        } else {
            6
        };
        if bits >= 8 {
            bytes.push(pending as u8);
            pending >>= 8;
            bits -= 8;
        }
    }
    if bits > 0 {
        bytes.push(pending as u8);
    }
    bytes.reverse();
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with the encoder of LiveKit's server.
    const BASE62_VECTORS: &[(&[u8], &str)] = &[
        (&[0x1e], "eA"),
        (&[0x3e], "eB"),
        (&[0x3f], "fB"),
        (&[0xff], "fH"),
        (&[0xff, 0xff], "fffB"),
        (&[0x01, 0x00], "AEA"),
        (&[0x7f, 0xff, 0xff], "ffffH"),
        (&[0x20, 0x00, 0x5e], "eCAQA"),
        (&[0x1f, 0xff], "ffH"),
        (&[0x80], "AC"),
        (b"APIkey|PA_a|1700000000", "wADMwADMwAzNxwXYfKIo4LvyWLJoCC"),
    ];

    #[test]
    fn rest_password_is_the_one_of_coturn() {
        // echo -n 1700000000:alice | openssl dgst -binary -sha1 -hmac north | base64
        let user = RestUser { expiry_s: 1_700_000_000, user: "alice" };
        let made = user.credentials("north");
        assert_eq!(made.username, "1700000000:alice");
        assert_eq!(RestUser::parse(&made.username), Some(user));
        assert_eq!(made.password, "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn livekit_password_is_the_one_of_livekit() {
        let user = LiveKitUser::parse("wADMwADMwAzNxwXYfKIo4LvyWLJoCC").unwrap();
        assert_eq!((user.api_key.as_str(), user.participant.as_str()), ("APIkey", "PA_a"));
        assert_eq!(user.expiry_s, 1_700_000_000);
        assert_eq!(user.password("secret"), "RVNqRCn0P8axGYKaWjVy2zIfhgILRKxRezesx0eohLtD");
    }

    #[test]
    fn livekit_credentials_come_back() {
        for participant in ["PA_a", "PA_VbnHJk2", "", "PA_ümlaut"] {
            let user = LiveKitUser {
                api_key: "APIkey".into(),
                participant: participant.into(),
                expiry_s: 1_700_000_000,
            };
            let made = user.credentials("secret");
            assert_eq!(LiveKitUser::parse(&made.username), Some(user.clone()));
            assert_eq!(made.password, user.password("secret"));
            assert_ne!(made.password, user.password("other"));
        }
    }

    #[test]
    fn base62_is_the_one_of_livekit() {
        for (bytes, text) in BASE62_VECTORS {
            assert_eq!(base62_encode(bytes), *text, "{bytes:?}");
            assert_eq!(base62_decode(text).as_deref(), Some(*bytes), "{text}");
        }
    }

    #[test]
    fn other_usernames_are_refused() {
        for name in ["", "alice", "1700000000:alice", "a|b", "\u{e9}", &"A".repeat(600)] {
            assert_eq!(LiveKitUser::parse(name), None, "{name}");
        }
        for name in ["", ":alice", "+5:alice", "alice", "99999999999999999999:a"] {
            assert_eq!(RestUser::parse(name), None, "{name}");
        }
    }
}
