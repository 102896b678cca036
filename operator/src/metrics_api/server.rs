//! Connections: TLS with the certificate of the moment, and who is at the other end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::access::Access;
use super::front_proxy::Trust;
use super::router::{Api, Caller, router};
use super::values::Figures;
use crate::cluster::authority::Certified;

/// Connections at the same time: each API server holds a few.
const MAX_CONNECTIONS: usize = 256;
/// Time for the head of a request; a connection that is idle for as long ends.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection can be taken.
#[derive(Debug, Error)]
enum TlsError {
    /// A certificate or a key is not PEM.
    #[error("a certificate or key cannot be read: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// They cannot be used.
    #[error("certificate and key cannot be used")]
    Rustls(#[from] rustls::Error),
    /// The authorities of the API server cannot be used.
    #[error("the authorities of the API server cannot be used")]
    Authorities(#[from] VerifierBuilderError),
}

/// Takes connections until the process ends; until there are a certificate and somebody to trust,
/// it closes them.
pub async fn serve<A: Access, F: Figures>(
    listener: TcpListener,
    mut certificate: watch::Receiver<Option<Arc<Certified>>>,
    mut trust: watch::Receiver<Option<Trust>>,
    api: Arc<Api<A, F>>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut current = None;
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "Failed to accept a connection to the metrics API");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let stale = |changed: Result<bool, _>| changed.unwrap_or(false);
        if current.is_none() || stale(certificate.has_changed()) || stale(trust.has_changed()) {
            current = prepared(
                certificate.borrow_and_update().as_deref(),
                trust.borrow_and_update().as_ref(),
            );
        }
        if let Some((config, trust)) = current.clone() {
            tokio::spawn(connection(stream, config, trust, Arc::clone(&api), permit));
        }
    }
}

/// What a new connection needs; `None` while something of it is missing.
fn prepared(
    certificate: Option<&Certified>,
    trust: Option<&Trust>,
) -> Option<(Arc<ServerConfig>, Arc<Trust>)> {
    let (certificate, trust) = (certificate?, trust?);
    match configuration(certificate, &trust.authorities) {
        Ok(config) => Some((Arc::new(config), Arc::new(trust.clone()))),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "Metrics API not served");
            None
        }
    }
}

fn configuration(certificate: &Certified, authorities: &str) -> Result<ServerConfig, TlsError> {
    let certificates = |text: &str| -> Result<Vec<CertificateDer<'static>>, TlsError> {
        CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(TlsError::Pem)
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities)? {
        roots.add(authority)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Who has no certificate is told so by an answer, not by a connection that breaks.
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).map_err(TlsError::Pem)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&certificate.certificate)?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection<A: Access, F: Figures>(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    trust: Arc<Trust>,
    api: Arc<Api<A, F>>,
    _permit: OwnedSemaphorePermit,
) {
    let accepted = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "Handshake with the metrics API failed"),
        Err(_) => return debug!("Handshake with the metrics API took too long"),
    };
    let common_name = common_name(&stream);
    speak(stream, router(api, Caller { common_name, trust })).await;
}

/// The common name of the other end's certificate, where it showed one.
fn common_name(stream: &TlsStream<TcpStream>) -> Option<String> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

async fn speak(stream: TlsStream<TcpStream>, router: Router) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        debug!(%error, "Connection to the metrics API ended");
    }
}

#[cfg(test)]
mod tests;
