//! Who may allocate.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Who may allocate. Without any of these nobody may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsConfig {
    /// File with API keys, a YAML map `key: secret`: LiveKit's credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<PathBuf>,
    /// File with shared secrets of the REST scheme (`expiry:user`), one a line, newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest_secrets_file: Option<PathBuf>,
    /// File with fixed users, a YAML map `name: password`; for tests and closed networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users_file: Option<PathBuf>,
    /// File with keys of 64 hexadecimal digits, one a line, newest first, the same for all
    /// servers that share clients. Without it the key is random, and nonces end with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce_key_file: Option<PathBuf>,
    /// Seconds until a client has to take a new nonce.
    pub nonce_life_s: u32,
}

impl Default for CredentialsConfig {
    fn default() -> Self {
        Self {
            keys_file: None,
            rest_secrets_file: None,
            users_file: None,
            nonce_key_file: None,
            nonce_life_s: 3600,
        }
    }
}

impl CredentialsConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        if !(60..=86_400).contains(&self.nonce_life_s) {
            return Err("credentials.nonce_life_s: must be from 60 to 86400".into());
        }
        Ok(())
    }
}
