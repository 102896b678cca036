//! The certificate of the TLS and DTLS listeners. A changed pair of files is taken for new
//! connections; connections that exist keep theirs.

use std::path::PathBuf;
use std::sync::Arc;

use contract::turn_config::TlsConfig;
use openssl::error::ErrorStack;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use thiserror::Error;

use crate::dtls;

/// Application protocols of TURN and STUN (RFC 7443 section 3).
const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not PEM.
    #[error("failed to read PEM")]
    Pem(#[from] pem::Error),
    /// The chain does not fit the key, or TLS does not know their kind.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
    /// OpenSSL does not take the pair.
    #[error("failed to set up DTLS")]
    Dtls(#[from] ErrorStack),
}

/// What both kinds of listeners need of a certificate.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) tls: Arc<ServerConfig>,
    pub(crate) dtls: dtls::Context,
}

/// The current certificate, shared by the workers.
#[derive(Clone)]
pub(crate) struct Certificate(Arc<RwLock<Identity>>);

/// PEM of the chain and of the key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PemPair {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl PemPair {
    /// Reads both files.
    pub(crate) fn read(config: &TlsConfig) -> Result<Self, CertificateError> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|source| CertificateError::Read { path: path.clone(), source })
        };
        Ok(Self { chain: read(&config.certificate_file)?, key: read(&config.key_file)? })
    }

    fn identity(&self) -> Result<Identity, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        // Relayed media is no help to whom it is replayed, but early data has no use here.
        tls.max_early_data_size = 0;
        let dtls = dtls::Context::new(&self.chain, &self.key)?;
        Ok(Identity { tls: Arc::new(tls), dtls })
    }
}

impl Certificate {
    /// Checks a pair of files and takes it.
    pub(crate) fn new(pair: &PemPair) -> Result<Self, CertificateError> {
        Ok(Self(Arc::new(RwLock::new(pair.identity()?))))
    }

    /// Takes another pair for new connections.
    pub(crate) fn replace(&self, pair: &PemPair) -> Result<(), CertificateError> {
        let identity = pair.identity()?;
        *self.0.write() = identity;
        Ok(())
    }

    /// The pair for a new connection.
    pub(crate) fn current(&self) -> Identity {
        self.0.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> PemPair {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let chain = made.cert.pem().into_bytes();
        PemPair { chain, key: made.signing_key.serialize_pem().into_bytes() }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_the_old_pair_stays() {
        let certificate = Certificate::new(&pair("a.example")).unwrap();
        let before = certificate.current().tls;
        let mixed = PemPair { key: pair("b.example").key, ..pair("c.example") };
        assert!(certificate.replace(&mixed).is_err());
        assert!(Arc::ptr_eq(&before, &certificate.current().tls));
        certificate.replace(&pair("d.example")).unwrap();
        assert!(!Arc::ptr_eq(&before, &certificate.current().tls));
    }
}
