//! Room homes and node leases in Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, IntoConnectionInfo as _, RedisError, Script};
use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{
    CLAIM_ROOM, Keys, MOVE_ROOM, NODE_LEASE, NODE_RENEWAL, NodeLoad, NodeRecord, NodeState,
    POD_ROW, PULSE, RELEASE_NODE, RELEASE_ROOM, RENEW_NODE, RESERVATION, ROOM_ROW, UPDATE_ROOM,
};
use contract::sfu_config::RedisConfig;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use sfu_core::placement::{Candidate, Lease, Peers, Standing, choose_home};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::{CLAIM_TIMEOUT, HandOver, Home, PlacementError, Stop};
use crate::settings::{SettingsError, read};

/// Longest wait for a connection or an answer: within a lease there is time for two tries.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// A candidate that never lives: a claim for it only finds homes that exist.
const NOBODY: &str = "none";

/// Modes of [`CLAIM_ROOM`].
const CLAIM: &str = "claim";
const KEEP: &str = "keep";

/// Nodes that are asked to take a room before the caller tries again later.
const MOVE_TRIES: u32 = 3;

/// What a script says of a room's home.
enum Found {
    Home(Box<Home>),
    /// No living home, and none was given.
    Nobody,
    /// Nobody gets a new home at the moment.
    Quiet,
    /// The room is not at home here.
    Lost,
}

/// Why Redis gave no answer that can be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The password file cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Redis refused or cannot be reached.
    #[error("Redis does not answer")]
    Redis(#[from] RedisError),
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// A value in Redis has a wrong form.
    #[error("a value in Redis has a wrong form")]
    Form(#[from] serde_json::Error),
}

/// What the other tasks of the process know of this node.
struct Shared {
    nodes: Vec<Candidate>,
    state: NodeState,
    lease: Lease,
}

/// Room homes and this node's lease in Redis.
pub struct RedisStore {
    connection: ConnectionManager,
    keys: Keys,
    id: NodeId,
    name: String,
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    /// The state changed: others shall know at once.
    told: Notify,
    returned: watch::Sender<()>,
    stop: Stop,
}

/// Time since boot, suspension included.
fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

impl RedisStore {
    /// Prepares a connection; it is made and made again in the background.
    ///
    /// # Errors
    ///
    /// When the configuration makes no address or the password file cannot be read.
    pub fn new(
        config: &RedisConfig,
        cluster_uid: &str,
        name: &str,
        address: SocketAddr,
    ) -> Result<Self, StoreError> {
        let scheme = if config.tls { "rediss" } else { "redis" };
        let mut info = format!("{scheme}://{}", config.address).into_connection_info()?;
        let mut redis = info.redis_settings().clone();
        if let Some(username) = &config.username {
            redis = redis.set_username(username);
        }
        if let Some(path) = &config.password_file {
            redis = redis.set_password(read(path)?.trim());
        } else if let Some(password) = &config.password {
            redis = redis.set_password(&password.0);
        }
        info = info.set_redis_settings(redis);
        let options = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(Client::open(info)?, options)?;
        let shared = Shared { nodes: Vec::new(), state: NodeState::Open, lease: Lease::default() };
        Ok(Self {
            connection,
            keys: Keys::new(cluster_uid),
            id: NodeId::generate(&mut rand::rng()),
            name: name.to_owned(),
            address,
            shared: Arc::new(Mutex::new(shared)),
            told: Notify::new(),
            returned: watch::channel(()).0,
            stop: watch::channel(false).0,
        })
    }

    pub(super) fn node_id(&self) -> &NodeId {
        &self.id
    }

    pub(super) fn nodes(&self) -> Vec<Candidate> {
        self.shared.lock().nodes.clone()
    }

    pub(super) fn set_state(&self, state: NodeState) {
        self.shared.lock().state = state;
        self.told.notify_one();
    }

    pub(super) fn may_admit(&self) -> bool {
        self.standing().may_serve()
    }

    pub(super) fn standing(&self) -> Standing {
        self.shared.lock().lease.standing(boot_time())
    }

    pub(super) fn set_peers(&self, peers: Peers) {
        self.shared.lock().lease.heard(peers, boot_time());
    }

    pub(super) fn fenced_term(&self) -> u64 {
        self.shared.lock().lease.fenced_term()
    }

    pub(super) fn term(&self) -> u64 {
        self.shared.lock().lease.term()
    }

    pub(super) fn has_held_lease(&self) -> bool {
        self.shared.lock().lease.was_held()
    }

    /// Renews the lease until [`Self::leave`]; `load` is asked each time.
    pub async fn run(&self, load: impl Fn() -> NodeLoad) {
        let mut stopped = self.stop.subscribe();
        let mut ticks = tokio::time::interval(NODE_RENEWAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.told.notified() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let sent_at = boot_time();
            match self.renew(load()).await {
                Ok((was_known, nodes)) => self.renewed(sent_at, was_known, nodes),
                Err(error) => {
                    if self.shared.lock().lease.missed(boot_time()) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "Lease not renewed");
                    }
                }
            }
        }
    }

    fn renewed(&self, sent_at: Duration, was_known: bool, nodes: Vec<Candidate>) {
        let mut shared = self.shared.lock();
        let is_back = shared.lease.renewed(sent_at, boot_time(), was_known, nodes.len() <= 1);
        shared.nodes = nodes;
        if is_back {
            tracing::info!(nodes = shared.nodes.len(), was_known, "Redis answers");
            drop(shared);
            self.returned.send_replace(());
        }
    }

    /// Renews the lease; answers whether Redis knew it, and the living nodes.
    async fn renew(&self, load: NodeLoad) -> Result<(bool, Vec<Candidate>), StoreError> {
        let (state, is_first) = {
            let shared = self.shared.lock();
            (shared.state, !shared.lease.was_held())
        };
        let record = NodeRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            address: self.address,
            state,
            load,
        };
        let script = Script::new(RENEW_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes())
            .key(self.keys.node(&self.id))
            .key(self.keys.pod(&self.name))
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.id.as_str())
            .arg(serde_json::to_string(&record)?)
            .arg(millis(NODE_LEASE))
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(if is_first { "first" } else { "next" })
            .arg(millis(POD_ROW))
            .arg(millis(PULSE));
        let mut connection = self.connection.clone();
        let (known, nodes): (u64, Vec<(String, u64)>) =
            timeout(ANSWER_TIMEOUT, call.invoke_async(&mut connection)).await??;
        let candidate = |(record, reservations): (String, u64)| {
            Ok(Candidate { record: serde_json::from_str(&record)?, reservations })
        };
        let nodes: Result<_, StoreError> = nodes.into_iter().map(candidate).collect();
        Ok((known == 1, nodes?))
    }

    pub(super) async fn claim(&self, room: &RoomName) -> Result<Home, PlacementError> {
        if !self.standing().may_claim() {
            return Err(PlacementError::NotRenewing);
        }
        let sid = RoomSid::generate(&mut rand::rng());
        let mut nodes = self.nodes();
        // A node that left since the last renewal is still in the list: then another is asked.
        loop {
            let chosen = choose_home(&nodes, &mut rand::rng()).map(|node| node.record.id.clone());
            let candidate = chosen.as_ref().map_or(NOBODY, NodeId::as_str);
            if let Some(home) = self.try_claim(room, candidate, &sid, CLAIM).await? {
                if home.sid == sid {
                    self.count_reservation(&home.node.id);
                }
                return Ok(home);
            }
            let chosen = chosen.ok_or(PlacementError::NoOpenNode)?;
            nodes.retain(|node| node.record.id != chosen);
        }
    }

    /// Counts a room placed by this node before the next renewal shows it.
    fn count_reservation(&self, home: &NodeId) {
        let mut shared = self.shared.lock();
        if let Some(node) = shared.nodes.iter_mut().find(|node| node.record.id == *home) {
            node.reservations += 1;
        }
    }

    pub(super) async fn find(&self, room: &RoomName) -> Result<Option<Home>, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        self.try_claim(room, NOBODY, &sid, CLAIM).await
    }

    pub(super) async fn keep(
        &self,
        room: &RoomName,
        sid: &RoomSid,
        asserts: bool,
    ) -> Result<Option<Home>, PlacementError> {
        let candidate = if asserts { self.id.as_str() } else { NOBODY };
        self.try_claim(room, candidate, sid, KEEP).await
    }

    pub(super) async fn hand_over(
        &self,
        room: &RoomName,
        epoch: &str,
        metadata: &str,
        state: &str,
    ) -> Result<HandOver, PlacementError> {
        let mut nodes = self.nodes();
        nodes.retain(|node| node.record.id != self.id);
        for _ in 0..MOVE_TRIES {
            let chosen = choose_home(&nodes, &mut rand::rng()).map(|node| node.record.id.clone());
            let Some(chosen) = chosen else { break };
            let script = Script::new(MOVE_ROOM);
            let mut call = script.prepare_invoke();
            call.key(self.keys.room(room))
                .arg(self.id.as_str())
                .arg(epoch)
                .arg(chosen.as_str())
                .arg(metadata)
                .arg(state)
                .arg(self.keys.node_prefix())
                .arg(self.keys.reservation_prefix())
                .arg(millis(ROOM_ROW))
                .arg(millis(RESERVATION));
            match self.ask_for_home(&call).await? {
                Found::Home(home) => {
                    self.count_reservation(&home.node.id);
                    return Ok(HandOver::Moved(home));
                }
                Found::Lost => return Ok(HandOver::Lost),
                Found::Nobody | Found::Quiet => nodes.retain(|node| node.record.id != chosen),
            }
        }
        Ok(HandOver::Refused)
    }

    pub(super) fn returns(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }

    async fn try_claim(
        &self,
        room: &RoomName,
        candidate: &str,
        sid: &RoomSid,
        mode: &str,
    ) -> Result<Option<Home>, PlacementError> {
        let script = Script::new(CLAIM_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room))
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(candidate)
            .arg(sid.as_str())
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION))
            .arg(mode);
        match self.ask_for_home(&call).await? {
            Found::Home(home) => Ok(Some(*home)),
            Found::Quiet => Err(PlacementError::Quiet),
            Found::Nobody | Found::Lost => Ok(None),
        }
    }

    async fn ask_for_home(
        &self,
        call: &::redis::ScriptInvocation<'_>,
    ) -> Result<Found, StoreError> {
        let mut connection = self.connection.clone();
        let answer: Vec<String> =
            timeout(CLAIM_TIMEOUT, call.invoke_async(&mut connection)).await??;
        let [_, epoch, sid, metadata, state, record] = match <[String; 6]>::try_from(answer) {
            Ok(home) => home,
            Err(answer) => {
                return Ok(match answer.first().map(String::as_str) {
                    Some("quiet") => Found::Quiet,
                    Some("lost") => Found::Lost,
                    Some(_) | None => Found::Nobody,
                });
            }
        };
        let node = serde_json::from_str(&record)?;
        let sid = RoomSid::from(sid);
        Ok(Found::Home(Box::new(Home { node, epoch, sid, metadata, state })))
    }

    /// Ends a room. A node that leaves lets the rows be: its rooms go on elsewhere with their sid
    /// and metadata.
    pub(super) async fn release(&self, room: &RoomName, epoch: &str) {
        if *self.stop.borrow() {
            return;
        }
        let script = Script::new(RELEASE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room)).arg(self.id.as_str()).arg(epoch);
        self.write(&call, "release a room").await;
    }

    pub(super) async fn update(&self, room: &RoomName, epoch: &str, metadata: &str, state: &str) {
        let script = Script::new(UPDATE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room)).arg(self.id.as_str()).arg(epoch).arg(metadata).arg(state);
        self.write(&call, "write a room's metadata").await;
    }

    pub(super) async fn leave(&self) {
        self.stop.send_replace(true);
        let script = Script::new(RELEASE_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes()).key(self.keys.node(&self.id)).arg(self.id.as_str());
        self.write(&call, "end the lease").await;
    }

    /// Runs a script whose failure costs nothing but time: leases and rows end by themselves.
    async fn write(&self, call: &::redis::ScriptInvocation<'_>, what: &'static str) {
        let mut connection = self.connection.clone();
        let written: Result<Result<i64, RedisError>, _> =
            timeout(ANSWER_TIMEOUT, call.invoke_async(&mut connection)).await;
        match written {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, what, "Redis refused"),
            Err(_) => tracing::warn!(what, "Redis did not answer in time"),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
