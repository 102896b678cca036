//! A self-signed certificate for a server of a test.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A certificate with its key.
pub struct Certificate {
    pem: String,
    fingerprint: String,
    key: KeyPair,
}

impl Certificate {
    /// Makes one for a DNS name.
    pub fn new(name: &str) -> Result<Self> {
        Self::of([name.to_owned()])
    }

    /// Makes one for a DNS name and those directly below it.
    pub fn with_subdomains(name: &str) -> Result<Self> {
        Self::of([name.to_owned(), format!("*.{name}")])
    }

    fn of(names: impl Into<Vec<String>>) -> Result<Self> {
        let key = KeyPair::generate()?;
        let made = CertificateParams::new(names)?.self_signed(&key)?;
        let fingerprint = hex::encode(Sha256::digest(made.der()));
        Ok(Self { pem: made.pem(), fingerprint, key })
    }

    /// The certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its private key.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// SHA-256 of the certificate, as hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What a browser trusts it by: see `Browser::start_trusting`.
    #[must_use]
    pub fn key_hash(&self) -> String {
        STANDARD.encode(Sha256::digest(self.key.subject_public_key_info()))
    }

    /// A Secret with it.
    #[must_use]
    pub fn secret(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name },
            "type": "kubernetes.io/tls",
            "stringData": { "tls.crt": self.pem, "tls.key": self.key_pem() },
        })
    }
}
