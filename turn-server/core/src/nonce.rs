//! Nonces that need no memory: time of making, authenticated together with the client's address
//! by a key that all servers of a cluster share (RFC 8489 section 9.2).

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::api::NonceKeys;

/// What a nonce begins with that carries security features (RFC 8489 section 9.2).
const COOKIE: &str = "obMatJos2";
/// Security feature: PASSWORD-ALGORITHMS is sent (RFC 8489 section 18.1, bit 0).
const PASSWORD_ALGORITHMS: u8 = 0x80;
/// Security feature: USERHASH is understood (bit 1).
const USERNAME_ANONYMITY: u8 = 0x40;
/// Bytes of the code in a nonce; a guess is right once in 2^64.
const CODE: usize = 8;
/// How far ahead the clock of another server may be.
const SKEW_S: u64 = 60;

/// Makes and checks nonces.
#[derive(Debug)]
pub(crate) struct Nonces {
    keys: NonceKeys,
    life_s: u64,
    features: u8,
}

impl Nonces {
    /// `only_static_users`: the name behind a USERHASH can be found.
    pub(crate) fn new(keys: NonceKeys, life: Duration, only_static_users: bool) -> Self {
        let anonymity = if only_static_users { USERNAME_ANONYMITY } else { 0 };
        Self { keys, life_s: life.as_secs(), features: PASSWORD_ALGORITHMS | anonymity }
    }

    /// A nonce for a client; `None` without a key.
    pub(crate) fn make(&self, client: IpAddr, unix_s: u64) -> Option<String> {
        let key = self.keys.0.first()?;
        let time = (unix_s as u32).to_be_bytes();
        let mut value = [0; 4 + CODE];
        value[..4].copy_from_slice(&time);
        value[4..].copy_from_slice(&self.code(key, time, client));
        let mut nonce = String::with_capacity(COOKIE.len() + 4 + 16);
        nonce.push_str(COOKIE);
        BASE64.encode_string([self.features, 0, 0], &mut nonce);
        BASE64.encode_string(value, &mut nonce);
        Some(nonce)
    }

    /// Whether a server of the cluster made the nonce for this client, not too long ago.
    pub(crate) fn is_fresh(&self, nonce: &[u8], client: IpAddr, unix_s: u64) -> bool {
        let mut value = [0; 3 + 4 + CODE];
        let Some(text) = nonce.strip_prefix(COOKIE.as_bytes()) else { return false };
        if BASE64.decode_slice(text, &mut value) != Ok(value.len()) {
            return false;
        }
        // A cookie with other features was not made by the code: the client was led astray.
        let is_ours = value[0] == self.features && value[1] == 0 && value[2] == 0;
        let time = [value[3], value[4], value[5], value[6]];
        let made_s = u64::from(u32::from_be_bytes(time));
        let now_s = unix_s & u64::from(u32::MAX);
        is_ours
            && made_s <= now_s + SKEW_S
            && now_s <= made_s + self.life_s
            && self
                .keys
                .0
                .iter()
                .any(|key| bool::from(self.code(key, time, client).ct_eq(&value[7..])))
    }

    fn code(&self, key: &[u8; 32], time: [u8; 4], client: IpAddr) -> [u8; CODE] {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(&time);
        mac.update(&[self.features]);
        match client {
            IpAddr::V4(ip) => mac.update(&ip.octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        let mut code = [0; CODE];
        code.copy_from_slice(&mac.finalize().into_bytes()[..CODE]);
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 8));
    const NOW: u64 = 1_700_000_000;

    fn nonces(keys: &[[u8; 32]]) -> Nonces {
        Nonces::new(NonceKeys(keys.to_vec()), Duration::from_secs(600), false)
    }

    #[test]
    fn a_nonce_is_good_for_its_client_and_its_life() {
        let ours = nonces(&[[1; 32]]);
        let nonce = ours.make(CLIENT, NOW).unwrap();
        let is_fresh = |client, at| ours.is_fresh(nonce.as_bytes(), client, at);
        assert!(is_fresh(CLIENT, NOW) && is_fresh(CLIENT, NOW + 600) && is_fresh(CLIENT, NOW - 60));
        assert!(!is_fresh(CLIENT, NOW + 601) && !is_fresh(CLIENT, NOW - 61));
        assert!(!is_fresh(OTHER, NOW));
    }

    #[test]
    fn servers_with_the_same_keys_accept_each_others_nonces() {
        let nonce = nonces(&[[1; 32]]).make(CLIENT, NOW).unwrap();
        let is_fresh = |keys: &[_]| nonces(keys).is_fresh(nonce.as_bytes(), CLIENT, NOW);
        assert!(is_fresh(&[[1; 32]]) && is_fresh(&[[2; 32], [1; 32]]));
        assert!(!is_fresh(&[[2; 32]]));
    }

    #[test]
    fn a_changed_nonce_is_not_ours() {
        let ours = nonces(&[[1; 32]]);
        let nonce = ours.make(CLIENT, NOW).unwrap();
        for index in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(!ours.is_fresh(&changed, CLIENT, NOW), "byte {index}");
        }
        assert!(!ours.is_fresh(b"", CLIENT, NOW) && !ours.is_fresh(&[b'A'; 500], CLIENT, NOW));
    }
}
