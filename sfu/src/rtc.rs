//! Sockets and threads of the media path. Each worker is a thread with a UDP port and an
//! [`sfu_core::media::engine::Engine`] of its own; rooms are attached to one worker each.

mod dtls;
mod load;
mod siblings;
mod spread;
mod tcp;
mod trunk;
mod worker;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sfu_core::media::dtls::DtlsFactory as _;
use sfu_core::media::engine::WorkerIndex;
use sfu_core::media::{
    CandidateProtocol, Fingerprint, LocalCandidate, MediaCommand, MediaEvent, RoomKey,
};
use thiserror::Error;
use tokio::sync::mpsc;

use dtls::OpenSslFactory;
use load::Loads;
use siblings::Siblings;
use spread::{Spread, choose_worker};
pub use trunk::Trunk;
use worker::{Command, Link, Worker};

/// Commands that wait for a worker. A room sends few, so a full queue means that the worker
/// hangs.
const COMMANDS: usize = 16 * 1024;

/// Why the media path did not start.
#[derive(Debug, Error)]
pub enum MediaPlaneError {
    /// OpenSSL could not make a certificate.
    #[error("failed to make the DTLS certificate")]
    Certificate(#[from] openssl::error::ErrorStack),
    /// A port is taken or not allowed.
    #[error("failed to bind {protocol} {address}")]
    Bind {
        /// UDP or TCP.
        protocol: &'static str,
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("failed to start a media worker")]
    Thread(#[source] std::io::Error),
}

/// Gives the addresses to advertise to clients; asked for every room.
pub type Advertise = Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>;

/// What the media path needs to start.
pub struct MediaPlaneOptions {
    /// Address to bind.
    pub bind: IpAddr,
    /// One port a worker.
    pub udp_ports: Vec<u16>,
    /// Port of ICE over TCP, shared by the workers; `None` turns it off.
    pub tcp_port: Option<u16>,
    /// Addresses to advertise.
    pub advertise: Advertise,
}

/// Counts of one worker, written by its thread only.
#[derive(Debug, Default)]
struct WorkerCounters {
    packets_in: AtomicU64,
    packets_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    retransmitted: AtomicU64,
    dropped: AtomicU64,
    transports: AtomicU64,
    senders: AtomicU64,
    rooms: AtomicU64,
    busy_micros: AtomicU64,
    gathering_micros: AtomicU64,
    lost_between_workers: AtomicU64,
}

/// Counts of all workers since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MediaCounters {
    /// Datagrams received.
    pub packets_in: u64,
    /// Media packets sent to subscribers.
    pub packets_out: u64,
    /// Bytes of datagrams received.
    pub bytes_in: u64,
    /// Bytes of datagrams sent.
    pub bytes_out: u64,
    /// Packets sent again on request.
    pub retransmitted: u64,
    /// Datagrams that were not authentic, unknown or malformed.
    pub dropped: u64,
    /// Transports that exist.
    pub transports: u64,
    /// Tracks that are being forwarded, one for each subscriber.
    pub senders: u64,
    /// Microseconds that workers were not waiting.
    pub busy_micros: u64,
    /// Microseconds for which datagrams gather, now, at the worker where it is longest.
    pub gathering_micros: u64,
}

/// All media workers of the process.
pub struct MediaPlane {
    links: Arc<Vec<Arc<Link>>>,
    loads: Arc<Loads>,
    threads: Vec<JoinHandle<()>>,
    ports: Vec<u16>,
    tcp_port: Option<u16>,
    advertise: Advertise,
    fingerprint: Fingerprint,
    next_room: AtomicU64,
}

impl MediaPlane {
    /// Binds the ports and starts the workers.
    ///
    /// # Errors
    ///
    /// When a port cannot be bound or a thread not started.
    pub async fn start(options: MediaPlaneOptions) -> Result<Self, MediaPlaneError> {
        let factory = OpenSslFactory::new()?;
        let fingerprint = factory.fingerprint();
        let (mut links, mut workers, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let mut wakers = Vec::new();
        for &port in &options.udp_ports {
            let address = SocketAddr::new(options.bind, port);
            let bind_error = |source| MediaPlaneError::Bind { protocol: "UDP", address, source };
            let (commands, queue) = crossbeam_channel::bounded(COMMANDS);
            let rng = StdRng::from_rng(&mut rand::rng());
            let (worker, waker, bound) =
                Worker::bind(address, factory.clone(), rng, queue).map_err(bind_error)?;
            ports.push(bound.port());
            links.push(Arc::new(Link::new(commands, Arc::clone(&waker), worker.counters())));
            wakers.push(waker);
            workers.push(worker);
        }
        let mut threads = Vec::new();
        let rings = Siblings::connect(&wakers);
        for (index, (mut worker, siblings)) in workers.into_iter().zip(rings).enumerate() {
            worker.connect(siblings);
            let thread = std::thread::Builder::new()
                .name(format!("media-{index}"))
                .spawn(move || worker.run())
                .map_err(MediaPlaneError::Thread)?;
            threads.push(thread);
        }
        let tcp_port = match options.tcp_port {
            Some(port) => Some(listen(SocketAddr::new(options.bind, port), &links).await?),
            None => None,
        };
        tracing::info!(?ports, ?tcp_port, "Media workers started");
        let (advertise, next_room) = (options.advertise, AtomicU64::new(1));
        let loads = Arc::new(Loads::new(links.iter().map(|link| Arc::clone(&link.counters))));
        let links = Arc::new(links);
        Ok(Self { links, threads, ports, tcp_port, advertise, fingerprint, next_room, loads })
    }

    /// Fingerprint of the certificate that all transports show.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// UDP port of each worker.
    pub fn udp_ports(&self) -> &[u16] {
        &self.ports
    }

    /// Whether there is an address to advertise.
    pub fn has_address(&self) -> bool {
        !(self.advertise)().is_empty()
    }

    /// Attaches a room to the worker with the fewest forwarded tracks, then rooms. Events come
    /// on `events`; the worker never waits for it. With `audio_limit` only that many of the
    /// loudest audio tracks are forwarded.
    pub fn attach(
        &self,
        events: mpsc::Sender<MediaEvent>,
        audio_limit: Option<usize>,
    ) -> RoomMedia {
        let index = self.least_loaded();
        let room = RoomKey(self.next_room.fetch_add(1, Ordering::Relaxed));
        RoomMedia {
            room,
            home: index,
            links: Arc::clone(&self.links),
            loads: Arc::clone(&self.loads),
            candidates: self.candidates(),
            spread: Spread::default(),
            attached: BTreeSet::new(),
            events,
            audio_limit,
        }
    }

    /// Where clients reach each worker.
    fn candidates(&self) -> Vec<Vec<LocalCandidate>> {
        let addresses = (self.advertise)();
        let of_worker = |port: &u16| {
            let ports = [
                (CandidateProtocol::Udp, Some(*port)),
                (CandidateProtocol::TcpPassive, self.tcp_port),
            ];
            let of_address = |ip: &IpAddr| {
                let ip = *ip;
                ports.into_iter().filter_map(move |(protocol, port)| {
                    Some(LocalCandidate { protocol, address: SocketAddr::new(ip, port?) })
                })
            };
            addresses.iter().flat_map(of_address).collect()
        };
        self.ports.iter().map(of_worker).collect()
    }

    /// What the workers have done.
    pub fn counters(&self) -> MediaCounters {
        let mut sum = MediaCounters::default();
        for link in self.links.iter() {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let counters = &link.counters;
            sum.packets_in += load(&counters.packets_in);
            sum.packets_out += load(&counters.packets_out);
            sum.bytes_in += load(&counters.bytes_in);
            sum.bytes_out += load(&counters.bytes_out);
            sum.retransmitted += load(&counters.retransmitted);
            sum.dropped += load(&counters.dropped);
            sum.transports += load(&counters.transports);
            sum.senders += load(&counters.senders);
            sum.busy_micros += load(&counters.busy_micros);
            sum.gathering_micros = sum.gathering_micros.max(load(&counters.gathering_micros));
        }
        sum
    }

    /// Share of its time, in thousandths, in which the busiest worker was not waiting lately.
    pub fn busiest(&self) -> u64 {
        self.loads.busiest()
    }

    /// Ends the workers and waits for them.
    pub fn shutdown(self) {
        for link in self.links.iter() {
            link.send(Command::Stop);
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("A media worker panicked");
            }
        }
    }
}

/// Listens for ICE over TCP; gives the port.
async fn listen(address: SocketAddr, links: &[Arc<Link>]) -> Result<u16, MediaPlaneError> {
    let bind_error = |source| MediaPlaneError::Bind { protocol: "TCP", address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(bind_error)?;
    let port = listener.local_addr().map_err(bind_error)?.port();
    tokio::spawn(tcp::accept(listener, links.to_vec()));
    Ok(port)
}

/// A room's hold on its worker, and on siblings once that one is busy. Dropping it ends the
/// room's transports.
pub struct RoomMedia {
    room: RoomKey,
    home: WorkerIndex,
    links: Arc<Vec<Arc<Link>>>,
    loads: Arc<Loads>,
    candidates: Vec<Vec<LocalCandidate>>,
    spread: Spread,
    attached: BTreeSet<WorkerIndex>,
    events: mpsc::Sender<MediaEvent>,
    audio_limit: Option<usize>,
}

impl RoomMedia {
    /// Where clients reach each worker.
    pub fn candidates(&self) -> &[Vec<LocalCandidate>] {
        &self.candidates
    }

    /// The worker on which the room's next transport shall be opened.
    pub fn preferred_worker(&self) -> WorkerIndex {
        choose_worker(self.home, &self.loads.latest())
    }

    /// Hands a command to the worker that it is for.
    pub fn send(&mut self, command: MediaCommand) {
        for (worker, command) in self.spread.route(command) {
            let Some(link) = self.links.get(worker) else { continue };
            if self.attached.insert(worker) {
                let (room, events, audio_limit) =
                    (self.room, self.events.clone(), self.audio_limit);
                link.send(Command::Attach { room, events, audio_limit });
            }
            link.send(Command::Media { room: self.room, command });
        }
    }
}

impl Drop for RoomMedia {
    fn drop(&mut self) {
        for worker in &self.attached {
            self.links[*worker].send(Command::Detach { room: self.room });
        }
    }
}
