//! Keys, passwords and certificates: kept where they are good, made where they are missing.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::access_token::ApiKeys;
use contract::sfu_config::PEER_NAME;
use crds::names;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use rand::RngExt as _;
use thiserror::Error;

use super::authority::{self, AuthorityError, Certified};
use super::dereference::Dereferenced;
use super::validate::{KEYS_ENTRY, PASSWORD_ENTRY, ValidCluster, ValidRedis, text_of};

/// Random bytes of a secret: as many as HMAC-SHA-256 takes (RFC 2104, section 3).
const SECRET_BYTES: usize = 32;
/// Random characters of an API key.
const KEY_LENGTH: usize = 12;
/// Characters of an API key; YAML needs no quotes for them.
const KEY_ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// Entry of the Secret of TURN: keys of nonces, one a line.
pub const NONCE_ENTRY: &str = "nonce-keys";
/// Entry of Secrets: the authorities' certificates.
pub const AUTHORITY_ENTRY: &str = "ca.crt";
/// Entry of Secrets: the authority's private key.
pub const AUTHORITY_KEY_ENTRY: &str = "ca.key";
/// Entry of Secrets: the certificate.
pub const CERTIFICATE_ENTRY: &str = "tls.crt";
/// Entry of Secrets: the certificate's private key.
pub const KEY_ENTRY: &str = "tls.key";

/// Why no key, password or certificate could be made.
#[derive(Debug, Error)]
pub enum MaterialError {
    /// The authority or a certificate could not be made.
    #[error("failed to make pod-to-pod certificates")]
    Authority(#[from] AuthorityError),
}

/// All keys, passwords and certificates of a LiveCluster that the operator makes.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The entry `keys.yaml`; `None` when the user has a Secret of their own.
    pub keys: Option<String>,
    /// The password of the managed Redis; `None` when Redis is external.
    pub redis_password: Option<String>,
    /// The keys of the TURN servers' nonces, newest first; `None` where there is no TURN.
    pub nonce_keys: Option<String>,
    /// The authority.
    pub authority: Certified,
    /// The certificate of media pods.
    pub peer: Certified,
    /// Secrets that were not there: they are created, never written over.
    pub absent: BTreeSet<String>,
}

/// Takes over what is good and makes the rest.
pub fn complete(
    valid: &ValidCluster,
    found: &Dereferenced,
    now: Timestamp,
) -> Result<Material, MaterialError> {
    let keys = valid.spec.keys.secret_name.is_none().then(|| {
        let kept = found.keys.as_ref().and_then(|secret| text_of(secret, KEYS_ENTRY));
        kept.filter(|text| ApiKeys::from_yaml(text).is_ok()).unwrap_or_else(new_keys)
    });
    let redis_password = match valid.redis {
        ValidRedis::Managed { .. } => {
            let kept = found.redis.as_ref().and_then(|secret| text_of(secret, PASSWORD_ENTRY));
            Some(kept.unwrap_or_else(new_secret))
        }
        ValidRedis::External(_) => None,
    };
    let nonce_keys = valid.turn.is_some().then(|| {
        let kept = found.turn.as_ref().and_then(|secret| text_of(secret, NONCE_ENTRY));
        kept.unwrap_or_else(new_nonce_key)
    });
    let kept = certified(found.authority.as_ref(), AUTHORITY_ENTRY, AUTHORITY_KEY_ENTRY);
    let authority = match kept.filter(|kept| authority::is_fresh(kept, now)) {
        Some(kept) => kept,
        None => authority::new_authority(&format!("LiveCluster {}", valid.name), now)?,
    };
    let kept = certified(found.peer.as_ref(), CERTIFICATE_ENTRY, KEY_ENTRY).filter(|kept| {
        authority::is_fresh(kept, now)
            && authority::is_issued_by(&kept.certificate, &authority.certificate, PEER_NAME)
    });
    let peer = match kept {
        Some(kept) => kept,
        None => authority::new_certificate(&authority, PEER_NAME, now)?,
    };
    let absent = [
        (found.keys.is_none(), names::keys_secret(&valid.name)),
        (found.redis.is_none(), names::redis_secret(&valid.name)),
        (found.authority.is_none(), names::authority_secret(&valid.name)),
        (found.peer.is_none(), names::peer_secret(&valid.name)),
        (found.turn.is_none(), names::turn(&valid.name)),
    ];
    let absent = absent.into_iter().filter(|(absent, _)| *absent).map(|(_, name)| name).collect();
    Ok(Material { keys, redis_password, nonce_keys, authority, peer, absent })
}

fn certified(secret: Option<&Secret>, certificate: &str, key: &str) -> Option<Certified> {
    let secret = secret?;
    Some(Certified { certificate: text_of(secret, certificate)?, key: text_of(secret, key)? })
}

/// One key with its secret, as `keys.yaml` has it.
fn new_keys() -> String {
    let mut random = rand::rng();
    let key: String = (0..KEY_LENGTH)
        .map(|_| char::from(KEY_ALPHABET[random.random_range(0..KEY_ALPHABET.len())]))
        .collect();
    format!("API{key}: {}\n", new_secret())
}

/// A secret that starts with a letter, so that YAML takes it for text.
fn new_secret() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill(&mut bytes[..]);
    format!("s{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A key as the TURN server reads it.
fn new_nonce_key() -> String {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill(&mut bytes[..]);
    format!("{}\n", hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_are_read_by_the_media_node() {
        let text = new_keys();
        assert!(ApiKeys::from_yaml(&text).is_ok());
        let (key, secret) = text.trim().split_once(": ").unwrap();
        assert!(key.starts_with("API") && secret.len() > 40, "{key}");
        assert_ne!(text, new_keys());
    }
}
