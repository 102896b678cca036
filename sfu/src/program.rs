//! The process: listeners, signals, the end.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use contract::sfu_config::{LogConfig, LogFormat};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::drain;
use crate::http::{self, Origin};
use crate::node::{Node, StartError};
use crate::peer::PeerServer;
use crate::settings::Settings;

/// Time that clients get to leave after they were sent to another node.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts log output as configured; a filter in `RUST_LOG` wins.
pub fn start_log(config: &LogConfig) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => {
            builder.with_target(false).with_ansi(std::io::stdout().is_terminal()).init()
        }
    }
}

/// A node that serves.
pub struct Running {
    /// The node.
    pub node: Arc<Node>,
    /// Where clients reach it.
    pub public: SocketAddr,
    /// Where probes and metrics are; the public listener with `--dev`.
    pub admin: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Starts everything; returns when the listeners take connections.
    ///
    /// # Errors
    ///
    /// With what is wrong in the configuration or taken on the machine.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let node = Node::start(settings).await?;
        let (stop, stopped) = watch::channel(false);
        let settings = Arc::clone(&node.settings);
        let (listener, public) = listen(&settings, settings.config.http.port).await?;
        let mut admin = public;
        spawn(listener, http::router(Arc::clone(&node), Origin::Client), stopped.clone());
        if !settings.dev {
            let (listener, address) = listen(&settings, settings.config.admin.port).await?;
            admin = address;
            spawn(listener, http::admin_router(Arc::clone(&node)), stopped.clone());
        }
        if let Some(config) = &settings.config.peer {
            let server = PeerServer::bind(config, (settings.bind, config.port).into()).await?;
            tokio::spawn(http::serve_peers(server, Arc::clone(&node)));
        }
        node.spawn_background();
        tracing::info!(%public, node = settings.node_name, "Media node started");
        Ok(Self { node, public, admin, stop })
    }

    /// Moves the rooms to other nodes, closes what is left and stops listening.
    pub async fn stop(self) {
        tracing::info!("Media node ends");
        drain::end(&self.node).await;
        // Their WebSockets close by themselves; whoever stays is cut with the process.
        let empty = async {
            while self.node.rooms.counts().rooms > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(LEAVE_TIMEOUT, empty).await.is_err() {
            tracing::warn!("Clients did not leave in time");
        }
        self.node.room_events.flush().await;
        self.stop.send_replace(true);
    }
}

async fn listen(settings: &Settings, port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(settings.bind, port);
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn spawn(listener: TcpListener, router: axum::Router, mut stopped: watch::Receiver<bool>) {
    tokio::spawn(async move {
        let stopped = async move {
            // The sender is gone when the process ends.
            let _ended = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = http::serve(listener, router, stopped).await {
            tracing::error!(%error, "Listener failed");
        }
    });
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
///
/// When signals cannot be listened to.
pub async fn terminated() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
