//! One media node: what all requests share, and the way to a room's home.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use contract::ids::RoomName;
use contract::redis::{MediaAddresses, NodeLoad, NodeRecord};
use sfu_core::placement::{Used, free_rooms};
use sfu_core::room::{RoomCloseReason, SessionId};
use sfu_core::signal::join::{JoinError, JoinParams};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::agents::Agents;
use crate::drain::Drain;
use crate::keys::Keys;
use crate::lookup::{ask_around, ask_for_home, tell_earlier_home};
use crate::metrics::Metrics;
use crate::peer::{PeerClient, PeerError};
use crate::placement::{
    Home, MemoryStore, Placement, PlacementError, RedisStore, Report, StoreError, ask_for_pledges,
};
use crate::room_events::RoomEvents;
use crate::rooms::{Listeners, NodeCounts, Rooms};
use crate::rtc::{MediaPlane, MediaPlaneError, MediaPlaneOptions};
use crate::session::{OUTBOX, Outgoing, RoomHandle};
use crate::settings::{Settings, SettingsError};
use crate::turn;
use crate::webhooks::{WebhookError, Webhooks};

/// A room that is just ending is asked again this often, with [`ENDING_PAUSE`] between.
const ENDING_TRIES: u32 = 150;
const ENDING_PAUSE: Duration = Duration::from_millis(20);
/// Bytes a second that are a megabit a second.
const BYTES_A_MEGABIT: u64 = 1_000_000 / 8;
/// Rooms that end just when they are asked for are asked for again so often.
const CLAIM_TRIES: u32 = 3;

/// Why the node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Configuration or a file it names.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Sockets or threads of the media path.
    #[error(transparent)]
    Media(#[from] MediaPlaneError),
    /// The configuration of Redis.
    #[error("failed to prepare Redis")]
    Redis(#[from] StoreError),
    /// Certificates of pod-to-pod requests.
    #[error("failed to prepare pod-to-pod requests")]
    Peer(#[from] PeerError),
    /// Redis without `peer`: a room's home could not be reached from other nodes.
    #[error("redis needs peer: nodes that share rooms must reach each other")]
    NoPeer,
    /// Receivers of webhooks.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// Metrics registered twice.
    #[error("failed to register metrics")]
    Metrics(#[from] prometheus::Error),
    /// A listener.
    #[error("failed to listen on {address}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Where a request for a room is to be served.
pub enum Route {
    /// Here.
    Local(RoomHandle),
    /// On another node.
    Remote(NodeRecord),
}

/// What came of a join.
pub enum Joined {
    /// The participant is in a room of this node.
    Here(RoomHandle, SessionId, mpsc::Receiver<Outgoing>),
    /// The room has another home.
    Elsewhere(NodeRecord),
}

/// What all requests share.
pub struct Node {
    /// What this process is.
    pub settings: Arc<Settings>,
    /// API keys.
    pub keys: Arc<Keys>,
    /// Where rooms live.
    pub placement: Arc<Placement>,
    /// Workers.
    pub media: Arc<MediaPlane>,
    /// Rooms of this node.
    pub rooms: Arc<Rooms>,
    /// Reaches other nodes.
    pub peers: Option<Arc<PeerClient>>,
    /// Agent workers of this node, and the way to those of others.
    pub agents: Arc<Agents>,
    /// The way to the stream of room events.
    pub room_events: RoomEvents,
    /// Counters.
    pub metrics: Metrics,
    /// Whether this node takes rooms, and moves those that it has.
    pub drain: Drain,
    packets_per_second: AtomicU64,
    bytes_per_second: AtomicU64,
    is_ending: AtomicBool,
}

impl Node {
    /// Starts the workers and prepares everything else.
    ///
    /// # Errors
    ///
    /// With what is wrong in the configuration or taken on the machine.
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        let settings = Arc::new(settings);
        let keys = Arc::new(Keys::load(&settings)?);
        let advertise = Arc::clone(&settings);
        let options = MediaPlaneOptions {
            bind: settings.bind,
            udp_ports: settings.udp_ports.clone(),
            tcp_port: settings.tcp_port,
            advertise: Arc::new(move || advertise.advertised()),
        };
        let media = Arc::new(MediaPlane::start(options).await?);
        let config = &settings.config;
        let peers = config.peer.as_ref().map(PeerClient::new).transpose()?.map(Arc::new);
        let placement = Arc::new(match (&config.redis, &config.peer) {
            (None, _) => Placement::Memory(Box::new(MemoryStore::new(&settings.node_name))),
            (Some(_), None) => return Err(StartError::NoPeer),
            (Some(redis), Some(peer)) => {
                let address = (settings.pod_ip, peer.port).into();
                let store =
                    RedisStore::new(redis, &config.cluster_uid, &settings.node_name, address)?;
                Placement::Redis(Box::new(store))
            }
        });
        let agents = Arc::new(Agents::new(
            Arc::clone(&keys),
            Arc::clone(&placement),
            peers.clone(),
            settings.node_name.clone(),
        ));
        let stream_length = config.redis.as_ref().map_or(0, |redis| redis.room_events);
        let room_events = RoomEvents::start(&placement, stream_length);
        let listeners = Listeners {
            webhooks: Webhooks::new(config.webhook.clone(), Arc::clone(&keys))?,
            room_events: room_events.clone(),
        };
        let metrics = Metrics::new()?;
        Ok(Arc::new_cyclic(|node| Self {
            rooms: Arc::new(Rooms::new(
                Arc::clone(&settings),
                Arc::clone(&keys),
                Arc::clone(&placement),
                Arc::clone(&media),
                listeners,
                Arc::clone(&agents),
                peers.clone(),
                Weak::clone(node),
            )),
            settings,
            keys,
            placement,
            media,
            peers,
            agents,
            room_events,
            metrics,
            drain: Drain::default(),
            packets_per_second: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
        }))
    }

    /// Tasks that go on for the life of the node.
    pub fn spawn_background(self: &Arc<Self>) {
        let node = Arc::clone(self);
        tokio::spawn(async move { node.keys.watch(&node.settings).await });
        let node = Arc::clone(self);
        tokio::spawn(async move { node.measure_rate().await });
        tokio::spawn(crate::drain::run(Arc::clone(self)));
        tokio::spawn(crate::drain::watch_state_file(Arc::clone(self)));
        let node = Arc::clone(self);
        tokio::spawn(async move {
            if let (Placement::Redis(store), Some(peers)) = (&*node.placement, &node.peers) {
                ask_for_pledges(store, Arc::clone(peers), &node.settings.node_name).await;
            }
        });
        let node = Arc::clone(self);
        tokio::spawn(async move {
            if let Placement::Redis(store) = &*node.placement {
                store.run(|| node.report()).await;
            }
        });
        let node = Arc::clone(self);
        tokio::spawn(async move { turn::tell_peers(&node).await });
    }

    /// Where this node receives media at this moment.
    pub fn media_addresses(&self) -> MediaAddresses {
        MediaAddresses {
            advertised: self.settings.advertised(),
            ports: self.media.udp_ports().to_vec(),
        }
    }

    async fn measure_rate(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        let mut before = self.media.counters();
        loop {
            ticks.tick().await;
            let sent = self.media.counters();
            let (packets, bytes) = (&self.packets_per_second, &self.bytes_per_second);
            packets.store(sent.packets_out - before.packets_out, Ordering::Relaxed);
            bytes.store(sent.bytes_out - before.bytes_out, Ordering::Relaxed);
            before = sent;
        }
    }

    /// What this node says of itself to the others.
    fn report(&self) -> Report {
        let NodeCounts { rooms, participants: _, subscribers, subscriptions } = self.rooms.counts();
        let egress_mbps = self.bytes_per_second.load(Ordering::Relaxed) / BYTES_A_MEGABIT;
        let used = Used { rooms, subscribers, egress_mbps };
        let load = NodeLoad {
            rooms,
            subscriptions,
            packets_per_second: self.packets_per_second.load(Ordering::Relaxed),
            busy: self.media.busiest(),
            free_rooms: free_rooms(self.settings.config.capacity, used),
        };
        Report { load, media: self.media_addresses(), region: self.settings.region() }
    }

    /// Whether the process is about to end: its agent workers shall register elsewhere.
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ending(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Why this node takes no clients yet; `None` once it is ready. A node is ready when clients
    /// can be told where its media goes and rooms could begin: the first node of a cluster waits
    /// until that is safe. Ready, it stays so: a Redis that fails later has no part in it.
    pub fn unready_reason(&self) -> Option<&'static str> {
        if !self.media.has_address() {
            Some("no address to advertise is known")
        } else if !self.placement.has_settled() {
            Some("no rooms could begin yet: Redis granted no lease, or they are being found again")
        } else {
            None
        }
    }

    /// Finds the home of a room, which gets one if it has none.
    ///
    /// # Errors
    ///
    /// With an HTTP status: 503 when it cannot be placed now.
    pub async fn route(&self, room: &RoomName) -> Result<Route, JoinError> {
        if let Some(handle) = self.rooms.get(room) {
            return self.route_known(room, handle).await;
        }
        if self.placement.is_away()
            && let Some(home) = self.home_by_others(room).await
        {
            return Ok(Route::Remote(home));
        }
        match self.place(room).await {
            Ok(Some(route)) => Ok(route),
            Ok(None) => Err(JoinError::new(503, "the room is ending, try again")),
            Err(error) => self.not_placed(room, &error).await,
        }
    }

    /// Asks Redis for the home of a room, which gets one if it has none; `None` when it ends each time.
    async fn place(&self, room: &RoomName) -> Result<Option<Route>, PlacementError> {
        for _ in 0..CLAIM_TRIES {
            let (term, asked_at) = (self.placement.term(), Instant::now());
            let home = self.placement.claim(room).await?;
            if let Some(route) = self.at(room, home, term, asked_at) {
                return Ok(Some(route));
            }
        }
        Ok(None)
    }

    /// Another node does not reach Redis: the home of a room, which gets one if it has none. `None`
    /// when this one does not reach it either.
    pub async fn place_for_another(&self, room: &RoomName) -> Option<NodeRecord> {
        if self.placement.is_away() {
            return None;
        }
        let route = match self.rooms.get(room) {
            Some(handle) if self.placement.may_admit() => Route::Local(handle),
            Some(_) => return None,
            None => self.place(room).await.ok()??,
        };
        match route {
            Route::Local(_) => self.own_record(),
            Route::Remote(home) => Some(home),
        }
    }

    fn own_record(&self) -> Option<NodeRecord> {
        let own = self.placement.node_id();
        self.placement.nodes().into_iter().map(|node| node.record).find(|node| node.id == own)
    }

    /// Where a room is, while this node does not reach Redis: at home on a node that says so, or where
    /// one that reaches Redis finds it.
    async fn home_by_others(&self, room: &RoomName) -> Option<NodeRecord> {
        match ask_around(self, room).await {
            Some(home) => Some(home),
            None => ask_for_home(self, room).await,
        }
    }

    /// Where to go with a room of which Redis says no home: it may have gone away while it was asked.
    async fn not_placed(
        &self,
        room: &RoomName,
        error: &PlacementError,
    ) -> Result<Route, JoinError> {
        if matches!(error, PlacementError::Unavailable(_))
            && let Some(home) = self.home_by_others(room).await
        {
            return Ok(Route::Remote(home));
        }
        self.metrics.count_unplaced(error);
        tracing::warn!(%room, error = error as &dyn std::error::Error, "Room not placed");
        Err(JoinError::new(503, error.to_string()))
    }

    /// The home of a living room, where Redis did not answer lately.
    async fn find_without_redis(&self, room: &RoomName) -> Option<NodeRecord> {
        if self.placement.is_away() { ask_around(self, room).await } else { None }
    }

    /// A room that lives here, unless this node was cut off and the room has another home by now.
    async fn route_known(&self, room: &RoomName, handle: RoomHandle) -> Result<Route, JoinError> {
        if self.placement.may_admit() {
            return Ok(Route::Local(handle));
        }
        let is_away = self.placement.is_away();
        let found = if is_away { None } else { self.placement.find(room).await.ok() };
        let home = match found {
            Some(home) => home.map(|home| home.node),
            None => self.home_by_others(room).await,
        };
        match home.filter(|home| home.id != self.placement.node_id()) {
            Some(home) => Ok(moved_on(room, &handle, home).await),
            None => Err(JoinError::new(503, "this node is being found again")),
        }
    }

    /// Finds the home of a room; `None` when it has none.
    ///
    /// # Errors
    ///
    /// With an HTTP status: 503 when Redis cannot be asked.
    pub async fn find(&self, room: &RoomName) -> Result<Option<Route>, JoinError> {
        if let Some(handle) = self.rooms.get(room)
            && self.placement.may_admit()
        {
            return Ok(Some(Route::Local(handle)));
        }
        if let Some(home) = self.find_without_redis(room).await {
            return Ok(Some(Route::Remote(home)));
        }
        let found = self.placement.find(room).await;
        let home = found.map_err(|error: PlacementError| JoinError::new(503, error.to_string()))?;
        Ok(home.and_then(|home| {
            if home.node.id == self.placement.node_id() {
                // A row that says "here" without a room is what a claim left whose join failed.
                self.rooms.get(room).map(Route::Local)
            } else {
                Some(Route::Remote(home.node))
            }
        }))
    }

    /// Finds the home of a room, which becomes this node if it has none.
    ///
    /// # Errors
    ///
    /// When Redis cannot be asked, or this node takes no new rooms.
    pub async fn route_here(&self, room: &RoomName) -> Result<Route, PlacementError> {
        if let Some(handle) = self.rooms.get(room)
            && self.placement.may_admit()
        {
            return Ok(Route::Local(handle));
        }
        for _ in 0..CLAIM_TRIES {
            let (term, asked_at) = (self.placement.term(), Instant::now());
            let home = self.placement.claim_here(room).await?;
            if let Some(route) = self.at(room, home, term, asked_at) {
                return Ok(route);
            }
        }
        Err(PlacementError::NoOpenNode)
    }

    /// `None` when the room ended here since its home was asked for.
    fn at(&self, room: &RoomName, home: Home, term: u64, asked_at: Instant) -> Option<Route> {
        if let Some(earlier) = home.earlier {
            tell_earlier_home(self, earlier, room);
        }
        if home.node.id == self.placement.node_id() {
            self.rooms.get_or_start(room, &home, term, asked_at).map(Route::Local)
        } else {
            Some(Route::Remote(home.node))
        }
    }

    /// Joins a room that lives here; messages for the client come on the receiver. The room may
    /// have moved on meanwhile.
    ///
    /// # Errors
    ///
    /// With the HTTP status that the client shall see.
    pub async fn join(
        &self,
        params: JoinParams,
        mut handle: RoomHandle,
    ) -> Result<Joined, JoinError> {
        for _ in 0..ENDING_TRIES {
            let (outbox, messages) = mpsc::channel(OUTBOX);
            if let Ok(joined) = handle.join(params.clone(), outbox).await {
                return Ok(Joined::Here(handle, joined?, messages));
            }
            // The room ends, and the next one begins when its home is released; or it moves; or its
            // home is being confirmed.
            tokio::time::sleep(ENDING_PAUSE).await;
            match self.route(&params.room).await? {
                Route::Local(next) => handle = next,
                Route::Remote(home) => return Ok(Joined::Elsewhere(home)),
            }
        }
        Err(JoinError::new(503, "the room is moving, try again"))
    }
}

/// A room that lived here has another home: who is still here belongs there.
async fn moved_on(room: &RoomName, handle: &RoomHandle, home: NodeRecord) -> Route {
    tracing::warn!(%room, home = home.name, "Room has another home");
    // One that ended meanwhile has nobody to send away.
    let _ended = handle.call(|room, now| room.close(RoomCloseReason::Drain, now)).await;
    Route::Remote(home)
}
