//! Room homes and node leases in Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, IntoConnectionInfo as _, RedisError, Script};
use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{
    CLAIM_ROOM, Keys, MediaAddresses, NODE_LEASE, NODE_RENEWAL, NodeLoad, NodeRecord, NodeState,
    RELEASE_NODE, RELEASE_ROOM, RENEW_NODE, RESERVATION, ROOM_ROW, UPDATE_ROOM,
};
use contract::sfu_config::RedisConfig;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use sfu_core::placement::{Candidate, choose_home, holds_lease};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{CLAIM_TIMEOUT, Home, PlacementError, Stop};
use crate::settings::{SettingsError, read};

/// Longest wait for a connection or an answer: within a lease there is time for two tries.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// A candidate that never lives: a claim for it only finds homes that exist.
const NOBODY: &str = "none";

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
    /// When the last renewal that succeeded was sent, on the clock that goes on in suspension.
    renewed_at: Option<Duration>,
    /// Redis did not answer the last renewal: nobody's lease can be renewed, and rooms go on.
    is_away: bool,
}

/// Room homes and this node's lease in Redis.
pub struct RedisStore {
    connection: ConnectionManager,
    keys: Keys,
    id: NodeId,
    name: String,
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
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
        let shared =
            Shared { nodes: Vec::new(), state: NodeState::Open, renewed_at: None, is_away: false };
        Ok(Self {
            connection,
            keys: Keys::new(cluster_uid),
            id: NodeId::generate(&mut rand::rng()),
            name: name.to_owned(),
            address,
            shared: Arc::new(Mutex::new(shared)),
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
    }

    /// With Redis answering, only a held lease admits. With Redis away nobody can take a room
    /// from its home, so living rooms go on.
    pub(super) fn may_admit(&self) -> bool {
        let shared = self.shared.lock();
        let is_held =
            shared.renewed_at.is_some_and(|at| holds_lease(boot_time().saturating_sub(at)));
        is_held || shared.is_away
    }

    pub(super) fn has_held_lease(&self) -> bool {
        self.shared.lock().renewed_at.is_some()
    }

    /// Renews the lease until [`Self::leave`]; `report` is asked each time.
    pub async fn run(&self, report: impl Fn() -> (NodeLoad, MediaAddresses)) {
        let mut stopped = self.stop.subscribe();
        let mut ticks = tokio::time::interval(NODE_RENEWAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
            let sent_at = boot_time();
            let renewed = self.renew(report()).await;
            let mut shared = self.shared.lock();
            match renewed {
                Ok((was_known, nodes)) => {
                    if shared.is_away || !was_known {
                        tracing::info!(nodes = nodes.len(), was_known, "Redis answers");
                        // It was away, or it is back so soon that nobody noticed but without
                        // what it held.
                        self.returned.send_replace(());
                    }
                    shared.is_away = false;
                    shared.renewed_at = Some(sent_at);
                    shared.nodes = nodes;
                }
                Err(error) => {
                    if !shared.is_away {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "Lease not renewed"
                        );
                    }
                    shared.is_away = true;
                }
            }
        }
    }

    /// Renews the lease; answers whether Redis knew it, and the living nodes.
    async fn renew(
        &self,
        (load, media): (NodeLoad, MediaAddresses),
    ) -> Result<(bool, Vec<Candidate>), StoreError> {
        let state = self.shared.lock().state;
        let record = NodeRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            address: self.address,
            state,
            load,
            media,
        };
        let script = Script::new(RENEW_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes())
            .key(self.keys.node(&self.id))
            .arg(self.id.as_str())
            .arg(serde_json::to_string(&record)?)
            .arg(millis(NODE_LEASE))
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix());
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
        let sid = RoomSid::generate(&mut rand::rng());
        let mut nodes = self.nodes();
        // A node that left since the last renewal is still in the list: then another is asked.
        loop {
            let chosen = choose_home(&nodes, &mut rand::rng()).map(|node| node.record.id.clone());
            let candidate = chosen.as_ref().map_or(NOBODY, NodeId::as_str);
            let claimed = timeout(CLAIM_TIMEOUT, self.try_claim(room, candidate, &sid)).await;
            if let Some(home) = claimed.map_err(StoreError::from)?? {
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
        let found = timeout(CLAIM_TIMEOUT, self.try_claim(room, NOBODY, &sid)).await;
        Ok(found.map_err(StoreError::from)??)
    }

    pub(super) async fn keep(
        &self,
        room: &RoomName,
        sid: &RoomSid,
    ) -> Result<Option<Home>, PlacementError> {
        let kept = timeout(CLAIM_TIMEOUT, self.try_claim(room, self.id.as_str(), sid)).await;
        Ok(kept.map_err(StoreError::from)??)
    }

    pub(super) fn returns(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }

    async fn try_claim(
        &self,
        room: &RoomName,
        candidate: &str,
        sid: &RoomSid,
    ) -> Result<Option<Home>, StoreError> {
        let script = Script::new(CLAIM_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room))
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(candidate)
            .arg(sid.as_str())
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION));
        let mut connection = self.connection.clone();
        let answer: Vec<String> = call.invoke_async(&mut connection).await?;
        let Ok([_, epoch, sid, metadata, record]) = <[String; 5]>::try_from(answer) else {
            return Ok(None);
        };
        let node = serde_json::from_str(&record)?;
        Ok(Some(Home { node, epoch, sid: RoomSid::from(sid), metadata }))
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

    pub(super) async fn update(&self, room: &RoomName, epoch: &str, metadata: &str) {
        let script = Script::new(UPDATE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room)).arg(self.id.as_str()).arg(epoch).arg(metadata);
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
