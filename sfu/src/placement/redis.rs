//! Room homes and node leases in Redis.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, IntoConnectionInfo as _, RedisError, Script};
use contract::ids::{NodeId, RoomName, RoomSid};
use contract::redis::{
    CLAIM_LIFE, CLAIM_ROOM, KEEP_ROOM, Keys, MOVE_ROOM, NODE_LEASE, NODE_MEMORY, NODE_RENEWAL,
    NodeLoad, NodeRecord, NodeState, POD_ROW, PULSE, RELEASE_NODE, RELEASE_ROOM, RENEW_NODE,
    RESERVATION, ROOM_ROW, UPDATE_ROOM,
};
use contract::sfu_config::RedisConfig;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use sfu_core::placement::{
    Candidate, Kept, Lease, PledgeAnswer, Question, Renewal, choose_home, count_reservation,
};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::{CLAIM_TIMEOUT, HandOver, Home, PlacementError, Stop};
use crate::settings::{SettingsError, read};

/// Longest wait for a connection or an answer: within a lease there is time for two tries.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// A candidate that never lives: a claim for it only finds homes that exist.
const NOBODY: &str = "none";

/// How long a claim waits where rooms begin again by themselves soon.
const CLAIM_PATIENCE: Duration = Duration::from_millis(4_500);
/// Wait before it is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);

/// Nodes that are asked to take a room before the caller tries again later.
const MOVE_TRIES: u32 = 3;

/// What a script says of a room's home.
enum Found {
    Home(Box<Home>),
    /// No living home, and none was given.
    Nobody,
    /// No room begins at the moment.
    Quiet,
    /// This node's idea of the time of Redis is wrong.
    Late,
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
    /// Since the machine started.
    started: Duration,
    renewals: AtomicU64,
    shared: Arc<Mutex<Shared>>,
    /// The state changed: others shall know at once.
    told: Notify,
    returned: watch::Sender<()>,
    stop: Stop,
}

/// Time since boot, suspension included.
pub(super) fn boot_time() -> Duration {
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
            started: boot_time(),
            renewals: AtomicU64::new(0),
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
        self.shared.lock().lease.may_serve(boot_time())
    }

    /// Whose pledges are wanted now.
    pub(super) fn wants_pledges(&self) -> Vec<SocketAddr> {
        self.shared.lock().lease.wants_pledges(boot_time())
    }

    /// What another node said when it was asked for its pledge at `asked_at`.
    pub(super) fn heard(&self, address: SocketAddr, asked_at: Duration, answer: PledgeAnswer) {
        self.shared.lock().lease.heard(address, asked_at, boot_time(), answer);
    }

    /// Another node asks for a pledge.
    pub(super) fn pledge(&self) -> bool {
        self.shared.lock().lease.pledge(boot_time())
    }

    /// Whether there was a time at which this node could begin rooms.
    pub(super) fn has_settled(&self) -> bool {
        self.shared.lock().lease.has_settled(boot_time())
    }

    pub(super) fn is_away(&self) -> bool {
        self.shared.lock().lease.is_away()
    }

    fn may_begin(&self) -> Option<u64> {
        self.shared.lock().lease.may_begin(boot_time())
    }

    pub(super) fn fenced_term(&self) -> u64 {
        self.shared.lock().lease.fenced_term()
    }

    pub(super) fn term(&self) -> u64 {
        self.shared.lock().lease.term()
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
                Ok((renewal, nodes)) => self.renewed(sent_at, &renewal, nodes),
                Err(error) => {
                    if self.shared.lock().lease.missed() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "Lease not renewed");
                    }
                }
            }
        }
    }

    fn renewed(&self, sent_at: Duration, renewal: &Renewal, nodes: Vec<Candidate>) {
        let mut shared = self.shared.lock();
        let is_back = shared.lease.renewed(sent_at, boot_time(), renewal);
        shared.nodes = nodes;
        if is_back {
            let (nodes, term) = (shared.nodes.len(), shared.lease.term());
            tracing::info!(nodes, term, "Redis answers");
            drop(shared);
            self.returned.send_replace(());
        }
    }

    /// The record of this node, and whether no renewal has succeeded yet.
    fn record(&self, load: NodeLoad) -> (NodeRecord, bool) {
        let shared = self.shared.lock();
        let is_settling = shared.state == NodeState::Open && shared.lease.is_bound(boot_time());
        let record = NodeRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            address: self.address,
            state: if is_settling { NodeState::Settling } else { shared.state },
            load,
        };
        (record, !shared.lease.was_held())
    }

    /// Renews the lease; answers what Redis said, and the living nodes.
    async fn renew(&self, load: NodeLoad) -> Result<(Renewal, Vec<Candidate>), StoreError> {
        let (record, is_first) = self.record(load);
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
            .arg(millis(PULSE))
            .arg(millis(NODE_MEMORY))
            .arg(self.address.to_string())
            .arg(millis(self.started))
            .arg(self.renewals.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connection.clone();
        type Said = (String, u64, u64, u64, u64, Vec<(String, u64)>);
        let (term, store_time, follows, quiet, others, nodes): Said =
            timeout(ANSWER_TIMEOUT, call.invoke_async(&mut connection)).await??;
        let candidate = |(record, reservations): (String, u64)| {
            Ok(Candidate { record: serde_json::from_str(&record)?, reservations })
        };
        let nodes = nodes.into_iter().map(candidate).collect::<Result<Vec<_>, StoreError>>()?;
        let addresses = nodes.iter().map(|node| node.record.address);
        let renewal = Renewal {
            term,
            store_time,
            follows: follows == 1,
            quiet: Duration::from_millis(quiet),
            others,
            addresses: addresses.filter(|address| *address != self.address).collect(),
        };
        Ok((renewal, nodes))
    }

    /// The home of `room`, which becomes an open node where it has none. Waits where rooms begin
    /// again by themselves soon: after a start, or when Redis was away.
    pub(super) async fn claim(&self, room: &RoomName) -> Result<Home, PlacementError> {
        let end = Instant::now() + CLAIM_PATIENCE;
        loop {
            match self.try_claim(room).await {
                Err(
                    error @ (PlacementError::Quiet
                    | PlacementError::Settling
                    | PlacementError::NotRenewing),
                ) => {
                    if Instant::now() >= end {
                        return Err(error);
                    }
                }
                done => return done,
            }
            tokio::time::sleep(CLAIM_PAUSE).await;
        }
    }

    async fn try_claim(&self, room: &RoomName) -> Result<Home, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        let mut nodes = self.nodes();
        // A node that left since the last renewal is still in the list: then another is asked.
        loop {
            let time = self.may_begin();
            let chosen = time.and_then(|_| choose_home(&nodes, &mut rand::rng()));
            let chosen = chosen.map(|node| node.record.id.clone());
            let candidate = chosen.as_ref().map_or(NOBODY, NodeId::as_str);
            match self.ask_claim(room, self.id.as_str(), candidate, &sid, time).await? {
                Found::Home(home) => return Ok(*home),
                Found::Quiet => return Err(PlacementError::Quiet),
                Found::Late => return Err(PlacementError::NotRenewing),
                Found::Nobody | Found::Lost => {}
            }
            match (chosen, time) {
                (Some(chosen), _) => nodes.retain(|node| node.record.id != chosen),
                (None, None) => return Err(PlacementError::NotRenewing),
                (None, Some(_)) => return Err(self.nobody_open()),
            }
        }
    }

    pub(super) async fn claim_here(&self, room: &RoomName) -> Result<Home, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        let time = self.may_begin().ok_or(PlacementError::NotRenewing)?;
        match self.ask_claim(room, self.id.as_str(), self.id.as_str(), &sid, Some(time)).await? {
            Found::Home(home) => Ok(*home),
            Found::Quiet => Err(PlacementError::Quiet),
            Found::Late => Err(PlacementError::NotRenewing),
            Found::Nobody | Found::Lost => Err(PlacementError::NoOpenNode),
        }
    }

    /// Why there is no open node.
    fn nobody_open(&self) -> PlacementError {
        let is_settling = |node: &Candidate| node.record.state == NodeState::Settling;
        if self.shared.lock().nodes.iter().any(is_settling) {
            PlacementError::Settling
        } else {
            PlacementError::NoOpenNode
        }
    }

    pub(super) async fn find(&self, room: &RoomName) -> Result<Option<Home>, PlacementError> {
        let sid = RoomSid::generate(&mut rand::rng());
        match self.ask_claim(room, NOBODY, NOBODY, &sid, None).await? {
            Found::Home(home) => Ok(Some(*home)),
            Found::Quiet => Err(PlacementError::Quiet),
            Found::Nobody | Found::Lost | Found::Late => Ok(None),
        }
    }

    pub(super) async fn keep(
        &self,
        room: &RoomName,
        sid: &RoomSid,
        epoch: &str,
        question: Question,
    ) -> Result<Kept, PlacementError> {
        let script = Script::new(KEEP_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room))
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.id.as_str())
            .arg(epoch)
            .arg(sid.as_str())
            .arg(millis(ROOM_ROW))
            .arg(if question.asserts { "assert" } else { "resume" })
            .arg(if question.raises { "raise" } else { "same" })
            .arg(self.may_begin().unwrap_or_default())
            .arg(millis(CLAIM_LIFE));
        let mut connection = self.connection.clone();
        let answer = timeout(CLAIM_TIMEOUT, call.invoke_async(&mut connection)).await;
        let answer: Vec<String> = answer.map_err(StoreError::from)?.map_err(StoreError::from)?;
        Ok(match <[String; 2]>::try_from(answer) {
            Ok([_, epoch]) => Kept::Here(epoch),
            Err(answer) if answer.first().is_some_and(|said| said == "gone") => Kept::Gone,
            Err(_) => Kept::Unknown,
        })
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
                .key(self.keys.pulse())
                .key(self.keys.quiet())
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
                Found::Home(home) => return Ok(HandOver::Moved(home)),
                Found::Lost => return Ok(HandOver::Lost),
                Found::Quiet | Found::Late => break,
                Found::Nobody => nodes.retain(|node| node.record.id != chosen),
            }
        }
        Ok(HandOver::Refused)
    }

    pub(super) fn returns(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }

    /// Asks for the home of a room; `time` is what this node takes for that of Redis.
    async fn ask_claim(
        &self,
        room: &RoomName,
        caller: &str,
        candidate: &str,
        sid: &RoomSid,
        time: Option<u64>,
    ) -> Result<Found, StoreError> {
        let script = Script::new(CLAIM_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room))
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .arg(self.keys.node_prefix())
            .arg(self.keys.reservation_prefix())
            .arg(caller)
            .arg(candidate)
            .arg(sid.as_str())
            .arg(millis(ROOM_ROW))
            .arg(millis(RESERVATION))
            .arg(time.unwrap_or_default())
            .arg(millis(CLAIM_LIFE));
        self.ask_for_home(&call).await
    }

    async fn ask_for_home(
        &self,
        call: &::redis::ScriptInvocation<'_>,
    ) -> Result<Found, StoreError> {
        let mut connection = self.connection.clone();
        let answer: Vec<String> =
            timeout(CLAIM_TIMEOUT, call.invoke_async(&mut connection)).await??;
        let [_, epoch, sid, metadata, state, record, reserved] =
            match <[String; 7]>::try_from(answer) {
                Ok(home) => home,
                Err(answer) => {
                    return Ok(match answer.first().map(String::as_str) {
                        Some("quiet") => Found::Quiet,
                        Some("late") => Found::Late,
                        Some("lost") => Found::Lost,
                        Some(_) | None => Found::Nobody,
                    });
                }
            };
        let node: NodeRecord = serde_json::from_str(&record)?;
        let reserved = serde_json::from_str(&reserved)?;
        count_reservation(&mut self.shared.lock().nodes, &node.id, reserved);
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

    /// `false` when Redis says that the row is another's, or of another epoch.
    pub(super) async fn update(
        &self,
        room: &RoomName,
        epoch: &str,
        metadata: &str,
        state: &str,
    ) -> bool {
        let script = Script::new(UPDATE_ROOM);
        let mut call = script.prepare_invoke();
        call.key(self.keys.room(room)).arg(self.id.as_str()).arg(epoch).arg(metadata).arg(state);
        self.write(&call, "write a room's metadata").await != Some(0)
    }

    pub(super) async fn leave(&self) {
        self.stop.send_replace(true);
        self.shared.lock().lease.leave();
        let script = Script::new(RELEASE_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes()).key(self.keys.node(&self.id)).arg(self.id.as_str());
        self.write(&call, "end the lease").await;
    }

    /// Runs a script whose failure costs nothing but time: leases and rows end by themselves.
    async fn write(&self, call: &::redis::ScriptInvocation<'_>, what: &'static str) -> Option<i64> {
        let mut connection = self.connection.clone();
        let written: Result<Result<i64, RedisError>, _> =
            timeout(ANSWER_TIMEOUT, call.invoke_async(&mut connection)).await;
        match written {
            Ok(Ok(written)) => return Some(written),
            Ok(Err(error)) => tracing::warn!(%error, what, "Redis refused"),
            Err(_) => tracing::warn!(what, "Redis did not answer in time"),
        }
        None
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
