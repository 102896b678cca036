//! Requests between media nodes: HTTP/1.1 over mutual TLS. Whoever shows a certificate of the
//! cluster's authority for [`PEER_NAME`] is a node; nobody else is served or asked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use contract::sfu_config::{PEER_NAME, PeerConfig};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Marks a request that came from another node.
pub const FORWARDED_BY: HeaderName = HeaderName::from_static("x-livecluster-node");
/// Time for connection and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for the beginning of an answer. Some calls of the server API wait for a
/// participant or an agent for half a minute.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(40);
/// The same for what becomes a WebSocket: joining waits for nobody.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of the answer to [`PeerClient::post`].
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Handshakes at a time: one node's restart brings its siblings at once.
const MAX_HANDSHAKES: usize = 256;

/// Why a node was not reached, or does not listen.
#[derive(Debug, Error)]
pub enum PeerError {
    /// A certificate or key cannot be read.
    #[error("failed to read {path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not make a TLS configuration.
    #[error("failed to configure TLS")]
    Tls(#[from] rustls::Error),
    /// The authorities do not make a verifier.
    #[error("failed to use the authorities")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The socket.
    #[error("failed to reach the node")]
    Io(#[from] std::io::Error),
    /// No connection in time.
    #[error("the node does not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The HTTP exchange.
    #[error("the request to the node failed")]
    Http(#[from] hyper::Error),
    /// The request makes no sense.
    #[error("the request to the node is malformed")]
    Request(#[source] axum::http::Error),
    /// The node refused.
    #[error("the node answered {0}")]
    Status(StatusCode),
    /// The rest of the answer.
    #[error("the node did not finish its answer")]
    Body(#[source] axum::Error),
}

impl PeerError {
    /// Whether the node's process is gone: its port is open as long as it lives, and before it has
    /// a lease.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

/// Certificates as read from files that may change.
struct Credentials {
    config: PeerConfig,
    loaded: Mutex<Option<Loaded>>,
}

/// What was made of the files, and when the certificate's file was last written.
struct Loaded {
    at: SystemTime,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Credentials {
    fn new(config: &PeerConfig) -> Result<Self, PeerError> {
        let credentials = Self { config: config.clone(), loaded: Mutex::new(None) };
        credentials.current()?;
        Ok(credentials)
    }

    /// The current configurations; files are read again when the certificate's file changed.
    fn current(&self) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), PeerError> {
        let path = &self.config.certificate_file;
        let changed = std::fs::metadata(path)
            .and_then(|metadata| metadata.modified())
            .map_err(|error| PeerError::File { path: path.clone(), reason: error.to_string() })?;
        let mut loaded = self.loaded.lock();
        if let Some(loaded) = &*loaded
            && loaded.at == changed
        {
            return Ok((Arc::clone(&loaded.client), Arc::clone(&loaded.server)));
        }
        let (client, server) = load(&self.config)?;
        let (shared_client, shared_server) = (Arc::clone(&client), Arc::clone(&server));
        *loaded = Some(Loaded { at: changed, client: shared_client, server: shared_server });
        Ok((client, server))
    }
}

fn load(config: &PeerConfig) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), PeerError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.ca_file)? {
        roots.add(certificate)?;
    }
    let roots = Arc::new(roots);
    let chain = certificates(&config.certificate_file)?;
    let key = || {
        PrivateKeyDer::from_pem_file(&config.key_file)
            .map_err(|error| file_error(&config.key_file, &error))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain.clone(), key()?)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key()?)?;
    Ok((Arc::new(client), Arc::new(server)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(path, &error))
}

fn file_error(path: &Path, error: &rustls::pki_types::pem::Error) -> PeerError {
    PeerError::File { path: path.to_owned(), reason: error.to_string() }
}

/// Sends requests to other nodes.
pub struct PeerClient {
    credentials: Credentials,
}

impl PeerClient {
    /// Reads the certificates.
    ///
    /// # Errors
    ///
    /// When a file cannot be used.
    pub fn new(config: &PeerConfig) -> Result<Self, PeerError> {
        Ok(Self { credentials: Credentials::new(config)? })
    }

    /// Passes a request on and its response back (see [`PeerConnection::forward`]).
    ///
    /// # Errors
    ///
    /// When the node cannot be reached; the request may then be tried on another home.
    pub async fn forward(
        &self,
        address: SocketAddr,
        from: &str,
        request: Request,
    ) -> Result<Response, PeerError> {
        self.connect(address).await?.forward(from, request).await
    }

    /// Asks a node something of ours; the body of its answer when it is a good one.
    pub async fn post(
        &self,
        address: SocketAddr,
        from: &str,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Option<Bytes> {
        self.try_post(address, from, path, body, limit).await.ok()
    }

    /// The same, for those who want to know why there is none.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, or gives another answer than 200.
    pub async fn try_post(
        &self,
        address: SocketAddr,
        from: &str,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, PeerError> {
        let request = Request::post(path)
            .header(header::HOST, PEER_NAME)
            .body(Body::from(body))
            .map_err(PeerError::Request)?;
        let asked = async {
            let response = self.forward(address, from, request).await?;
            if response.status() != StatusCode::OK {
                return Err(PeerError::Status(response.status()));
            }
            to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.map_err(PeerError::Body)
        };
        timeout(limit, asked).await?
    }

    /// Opens a connection to a node and makes it one of `protocol`, which `path` serves.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached or does not know the protocol.
    pub async fn upgrade(
        &self,
        address: SocketAddr,
        from: &str,
        path: &str,
        protocol: &'static str,
    ) -> Result<TokioIo<Upgraded>, PeerError> {
        let PeerConnection(mut sender) = self.connect(address).await?;
        let mut request = Request::post(path)
            .header(header::HOST, PEER_NAME)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, protocol)
            .body(Body::empty())
            .map_err(PeerError::Request)?;
        prepare(request.headers_mut(), from);
        let mut response = timeout(UPGRADE_TIMEOUT, sender.send_request(request)).await??;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(PeerError::Status(response.status()));
        }
        Ok(TokioIo::new(hyper::upgrade::on(&mut response).await?))
    }

    /// Connects to a node, for one request.
    ///
    /// # Errors
    ///
    /// When the node cannot be reached, or is none.
    pub async fn connect(&self, address: SocketAddr) -> Result<PeerConnection, PeerError> {
        let (config, _) = self.credentials.current()?;
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(PEER_NAME).expect("PEER_NAME is a DNS name");
            TlsConnector::from(config).connect(name, stream).await
        };
        let stream = timeout(CONNECT_TIMEOUT, connect).await??;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "Connection to a node ended");
            }
        });
        Ok(PeerConnection(sender))
    }
}

/// A connection to a node.
pub struct PeerConnection(http1::SendRequest<Body>);

impl PeerConnection {
    /// Passes a request on and its response back. An upgraded connection (WebSocket) is
    /// carried byte for byte until either side ends it.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub async fn forward(self, from: &str, mut request: Request) -> Result<Response, PeerError> {
        let Self(mut sender) = self;
        let upgrade = hyper::upgrade::on(&mut request);
        let is_upgrade = request.headers().contains_key(header::UPGRADE);
        prepare(request.headers_mut(), from);
        let limit = if is_upgrade { UPGRADE_TIMEOUT } else { RESPONSE_TIMEOUT };
        let mut response = timeout(limit, sender.send_request(request)).await??;
        if is_upgrade && response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let home = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                if let (Ok(client), Ok(home)) = tokio::join!(upgrade, home) {
                    let (mut client, mut home) = (TokioIo::new(client), TokioIo::new(home));
                    // Either side may end at any moment: that is how such connections end.
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut home).await;
                }
            });
        }
        Ok(response.map(Body::new))
    }
}

/// Marks a request as ours; whatever a client wrote there is overwritten.
fn prepare(headers: &mut HeaderMap, from: &str) {
    let value = HeaderValue::from_str(from).unwrap_or(HeaderValue::from_static("node"));
    headers.insert(FORWARDED_BY, value);
}

/// Serves requests of other nodes with `router`.
pub struct PeerServer {
    credentials: Credentials,
    listener: TcpListener,
}

impl PeerServer {
    /// Listens.
    ///
    /// # Errors
    ///
    /// When the port is taken or a file cannot be used.
    pub async fn bind(config: &PeerConfig, address: SocketAddr) -> Result<Self, PeerError> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { credentials: Credentials::new(config)?, listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// When the socket is broken.
    pub fn address(&self) -> Result<SocketAddr, PeerError> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until the process ends.
    pub async fn run(self, router: Router) {
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a node's connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (_, config) = match self.credentials.current() {
                Ok(current) => current,
                Err(error) => {
                    tracing::error!(%error, "Node refused: certificates cannot be read");
                    continue;
                }
            };
            let router = router.clone();
            tokio::spawn(async move {
                let accepted =
                    timeout(CONNECT_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await;
                drop(permit);
                match accepted {
                    Ok(Ok(stream)) => serve(TokioIo::new(stream), router).await,
                    Ok(Err(error)) => tracing::warn!(%peer, %error, "Refused: not a node"),
                    Err(_) => tracing::debug!(%peer, "Handshake took too long"),
                }
            });
        }
    }
}

async fn serve(stream: TokioIo<tokio_rustls::server::TlsStream<TcpStream>>, router: Router) {
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(stream, TowerToHyperService::new(router))
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "Connection of a node ended");
    }
}
