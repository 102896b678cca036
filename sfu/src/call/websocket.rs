//! The signal connection, by TLS or without.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use hyper::Uri;
use hyper_rustls::ConfigBuilderExt as _;
use rustls::ClientConfig;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Why there is no signal connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address has no host or another scheme than `http` or `https`.
    #[error("{0} is no address of a LiveCluster")]
    Address(Uri),
    /// Nobody listens.
    #[error("cannot reach {host}:{port}")]
    Reach {
        /// Whom.
        host: String,
        /// At which port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host's name is none that a certificate could have.
    #[error("no certificate can be for this host")]
    Name(#[from] InvalidDnsNameError),
    /// TLS failed.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The request was refused.
    #[error("the signal connection was refused")]
    Refused(#[source] Box<tungstenite::Error>),
    /// This TLS library has no versions in common with itself.
    #[error("no TLS")]
    Versions(#[from] rustls::Error),
}

/// What a WebSocket runs on.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A signal connection.
pub(super) type WebSocket = WebSocketStream<Box<dyn Stream>>;

/// Opens `path_and_query` at the host of `url`; returns the own address on the way there, too.
pub(super) async fn open(
    url: &Uri,
    path_and_query: &str,
) -> Result<(WebSocket, IpAddr), ConnectError> {
    let (Some(host), Some(is_tls)) = (url.host(), is_tls(url)) else {
        return Err(ConnectError::Address(url.clone()));
    };
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    // An IPv6 address is in brackets in an address, and nowhere else.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let reach = |source| ConnectError::Reach { host: bare.to_owned(), port, source };
    let stream = TcpStream::connect((bare, port)).await.map_err(reach)?;
    let local = stream.local_addr().map_err(reach)?.ip();
    let stream: Box<dyn Stream> = if is_tls {
        let name = ServerName::try_from(bare.to_owned())?;
        Box::new(connector()?.connect(name, stream).await.map_err(ConnectError::Tls)?)
    } else {
        Box::new(stream)
    };
    let scheme = if is_tls { "wss" } else { "ws" };
    let base = url.path().trim_end_matches('/');
    let request = format!("{scheme}://{host}:{port}{base}{path_and_query}");
    let (socket, _) = client_async(request, stream)
        .await
        .map_err(|error| ConnectError::Refused(Box::new(error)))?;
    Ok((socket, local))
}

fn is_tls(url: &Uri) -> Option<bool> {
    match url.scheme_str() {
        Some("http" | "ws") => Some(false),
        Some("https" | "wss") => Some(true),
        Some(_) | None => None,
    }
}

fn connector() -> Result<TlsConnector, ConnectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_native_roots()
        .map_err(ConnectError::Tls)?
        .with_no_client_auth();
    Ok(Arc::new(config).into())
}
