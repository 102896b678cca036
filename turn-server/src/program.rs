//! The process: sockets, workers, files that change, signals, the end.

mod listeners;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use contract::sfu_config::{LogConfig, LogFormat};
use contract::turn_config::TurnConfig;
use crossbeam_channel::Sender;
use mio::Waker;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use turn_server_core::api::{Alternate, Config, RelayAddress, Transport};
use turn_server_core::server::Server;

use crate::admin;
use crate::admission::{Admission, Bounds};
use crate::connection::Rules;
use crate::files::{Files, OwnAddresses};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::tls::{Certificate, CertificateError};
use crate::udp;
use crate::worker::{Line, Listener, Order, Parts, Snapshot, Worker, lines};

/// How often files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often a draining server looks whether it is empty.
const DRAIN_LOOK: Duration = Duration::from_millis(200);
/// Orders that wait for a worker; there are few.
const ORDERS: usize = 64;
/// A CONNECTION-ID tells its worker in eight bits.
const MAX_WORKERS: usize = 256;

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port is taken or not allowed.
    #[error("failed to listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("failed to take the certificate of tls.certificate_file and tls.key_file")]
    Certificate(#[from] CertificateError),
    /// A thread or its poll could not be made.
    #[error("failed to start a worker")]
    Worker(#[source] std::io::Error),
    /// Two metrics have the same name.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
}

/// Starts log output as configured; a filter in `RUST_LOG` wins.
pub fn start_log(config: &LogConfig) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_target(false).init(),
    }
}

/// The rest of the process' hold on a worker.
struct Link {
    orders: Sender<Order>,
    waker: Arc<Waker>,
    snapshot: Arc<Mutex<Snapshot>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// Whether the worker has no allocation, and gets none.
    fn is_empty(&self) -> bool {
        let snapshot = self.snapshot.lock();
        (snapshot.is_draining && snapshot.core.allocations == 0) || !self.is_live()
    }

    fn is_live(&self) -> bool {
        self.thread.lock().as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn send(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            tracing::error!("A worker does not take orders");
        } else if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "Failed to wake a worker");
        }
    }
}

/// A server that serves.
pub struct Running {
    links: Vec<Link>,
    addresses: Vec<(Transport, SocketAddr)>,
    admin: SocketAddr,
    admission: Admission,
    metrics: Metrics,
    is_draining: AtomicBool,
    drain_timeout: Duration,
}

impl Running {
    /// Starts everything; returns when clients are served.
    ///
    /// # Errors
    ///
    /// With what is wrong in the configuration or taken on the machine.
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        raise_descriptor_limit();
        let count = settings.workers().min(MAX_WORKERS);
        let Settings { config, dev } = settings;
        let (listeners, addresses) = listeners::bind(&config.listen, count)?;
        let listen = |source| StartError::Listen { address: config.admin.listen, source };
        let admin_listener = TcpListener::bind(config.admin.listen).await.map_err(listen)?;
        let admin = admin_listener.local_addr().map_err(listen)?;
        let own = OwnAddresses {
            addresses: own_addresses(&config, &addresses),
            ports: own_ports(admin, &addresses),
        };
        let mut files = Files::new(&config, dev, count as u32, own);
        files.look();
        let certificate = files.certificate(&config)?;
        let admission = Admission::new(Bounds {
            connections: config.limits.connections as usize,
            per_address: config.limits.connections_per_address,
            handshakes: config.limits.handshakes as usize,
        });
        let mut links = Vec::new();
        let lines = lines(count).map_err(StartError::Worker)?;
        for (index, (listeners, line)) in listeners.into_iter().zip(lines).enumerate() {
            let ports = share_of_ports(&config, index, count);
            links.push(start_worker(Start {
                index,
                config: &config,
                files: &files,
                certificate: certificate.clone(),
                admission: admission.clone(),
                listeners,
                line,
                ports,
            })?);
        }
        let running = Arc::new(Self {
            links,
            addresses,
            admin,
            admission,
            metrics: Metrics::new()?,
            is_draining: AtomicBool::new(false),
            drain_timeout: Duration::from_secs(config.drain_timeout_s.into()),
        });
        let router =
            admin::router(Arc::clone(&running)).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(admin_listener, router).await {
                tracing::error!(%error, "Admin listener failed");
            }
        });
        tokio::spawn(watch(Arc::clone(&running), files, config, certificate));
        tracing::info!(addresses = ?running.addresses, %admin, workers = count, "TURN server started");
        Ok(running)
    }

    /// Where clients reach the server, as in a `turn:` URL.
    pub fn addresses(&self) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().map(|(transport, address)| {
            let name = match transport {
                Transport::Udp | Transport::Dtls => "udp",
                Transport::Tcp | Transport::Tls => "tcp",
            };
            format!("{address}?transport={name}")
        })
    }

    /// The bound listeners.
    pub fn listeners(&self) -> &[(Transport, SocketAddr)] {
        &self.addresses
    }

    /// Where probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Makes no allocations from here on.
    pub fn drain(&self) {
        if !self.is_draining.swap(true, Ordering::Relaxed) {
            tracing::info!("Draining: no new allocations");
            for link in &self.links {
                link.send(Order::Drain);
            }
        }
    }

    /// Drains, waits for the last allocation or the deadline, and ends the workers.
    pub async fn stop(&self) {
        self.drain();
        let deadline = Instant::now() + self.drain_timeout;
        while !self.links.iter().all(Link::is_empty) && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let left = self.allocations();
        tracing::info!(left, "TURN server ends");
        for link in &self.links {
            link.send(Order::Stop);
        }
        for link in &self.links {
            let thread = link.thread.lock().take();
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("A worker panicked");
            }
        }
    }

    /// Allocations that exist.
    pub fn allocations(&self) -> u64 {
        self.links.iter().map(|link| link.snapshot.lock().core.allocations).sum()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn workers_live(&self) -> bool {
        self.links.iter().all(Link::is_live)
    }

    pub(crate) fn render_metrics(&self) -> String {
        let snapshots: Vec<Snapshot> =
            self.links.iter().map(|link| link.snapshot.lock().clone()).collect();
        self.metrics.render(&snapshots, self.admission.counts(), self.is_draining())
    }
}

/// What a worker starts with.
struct Start<'a> {
    index: usize,
    config: &'a TurnConfig,
    files: &'a Files,
    certificate: Option<Certificate>,
    admission: Admission,
    listeners: Vec<Listener>,
    line: Line,
    ports: RangeInclusive<u16>,
}

fn start_worker(start: Start<'_>) -> Result<Link, StartError> {
    let Start { index, config, files, certificate, admission, listeners, line, ports } = start;
    let core = Config {
        worker: index as u8,
        realm: config.realm.clone(),
        software: "LiveCluster".to_owned(),
        relay_addresses: config
            .relay
            .addresses
            .iter()
            .map(|address| RelayAddress {
                bind: address.bind,
                advertise: address.advertise.unwrap_or(address.bind),
            })
            .collect(),
        relay_ports: ports,
        alternate: config
            .alternate_server
            .map(|server| Alternate { server, domain: config.alternate_domain.clone() }),
        hide_errors: config.peers.hide_errors,
        settings: files.settings(),
    };
    let waker = Arc::clone(line.waker());
    let (orders, queue) = crossbeam_channel::bounded(ORDERS);
    let snapshot = Arc::<Mutex<Snapshot>>::default();
    let parts = Parts {
        server: Server::new(
            core,
            StdRng::from_rng(&mut rand::rng()),
            Instant::now(),
            SystemTime::now(),
        ),
        number: index,
        line,
        listeners,
        certificate,
        admission,
        rules: Rules {
            trusted: config.proxy_protocol.trusted.clone(),
            queue_bytes: config.limits.connection_queue_bytes as usize,
        },
        setup: Duration::from_secs(config.limits.connection_setup_s.into()),
        handshakes: config.limits.handshakes as usize,
        orders: queue,
        snapshot: Arc::clone(&snapshot),
    };
    // What describes buffers to the kernel stays in its thread, so the worker is made there.
    let (ready, is_ready) = crossbeam_channel::bounded(1);
    let thread = std::thread::Builder::new()
        .name(format!("turn-{index}"))
        .spawn(move || match Worker::new(parts) {
            Ok(worker) => {
                // Nobody waits any more: the process ends.
                if ready.send(Ok(())).is_ok() {
                    worker.run();
                }
            }
            Err(error) => {
                let _nobody_waits = ready.send(Err(error));
            }
        })
        .map_err(StartError::Worker)?;
    is_ready
        .recv()
        .map_err(|_| StartError::Worker(std::io::ErrorKind::BrokenPipe.into()))?
        .map_err(StartError::Worker)?;
    Ok(Link { orders, waker, snapshot, thread: Mutex::new(Some(thread)) })
}

/// Tells the workers when files change.
async fn watch(
    running: Arc<Running>,
    mut files: Files,
    config: TurnConfig,
    certificate: Option<Certificate>,
) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        if files.look() {
            for link in &running.links {
                link.send(Order::Update(Box::new(files.settings())));
            }
        }
        if let Some(certificate) = &certificate {
            files.look_at_certificate(&config, certificate);
        }
    }
}

/// The relayed ports of a worker: no two share any.
fn share_of_ports(config: &TurnConfig, index: usize, count: usize) -> RangeInclusive<u16> {
    let (first, last) = (u32::from(config.relay.ports.first), u32::from(config.relay.ports.last));
    let all = last - first + 1;
    let (index, count) = (index as u32, count as u32);
    let from = first + all * index / count;
    let to = first + all * (index + 1) / count - 1;
    from as u16..=to.max(from) as u16
}

fn own_addresses(config: &TurnConfig, listeners: &[(Transport, SocketAddr)]) -> Vec<IpAddr> {
    let relays = config.relay.addresses.iter();
    let mut own: Vec<IpAddr> = relays
        .flat_map(|address| [Some(address.bind), address.advertise])
        .flatten()
        .chain(listeners.iter().map(|(_, address)| address.ip()))
        .filter(|ip| !ip.is_unspecified())
        .collect();
    own.sort();
    own.dedup();
    own
}

fn own_ports(admin: SocketAddr, listeners: &[(Transport, SocketAddr)]) -> Vec<u16> {
    let mut ports: Vec<u16> = listeners.iter().map(|(_, address)| address.port()).collect();
    ports.push(admin.port());
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A descriptor for each relay and connection: as many as the process may have.
fn raise_descriptor_limit() {
    if let Err(error) = udp::raise_descriptor_limit() {
        tracing::warn!(%error, "Failed to raise the limit of open files");
    }
}

/// SIGTERM and SIGINT. Made before the server starts: whoever sees it started may end it.
#[derive(Debug)]
pub struct Termination {
    term: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Takes the signals.
    ///
    /// # Errors
    ///
    /// When they cannot be had.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub async fn wait(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_ports_without_overlap() {
        let mut config = Settings::dev(0).config;
        config.relay.ports.first = 50_000;
        config.relay.ports.last = 50_009;
        let shares: Vec<_> = (0..3).map(|index| share_of_ports(&config, index, 3)).collect();
        assert_eq!(shares, [50_000..=50_002, 50_003..=50_005, 50_006..=50_009]);
    }
}
