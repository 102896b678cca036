//! Room homes and node leases in Redis.

mod events;
mod homes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redis::{RedisError, Script};
use contract::ids::NodeId;
use contract::redis::{
    END_NODE, Keys, MediaAddresses, NODE_LEASE, NODE_MEMORY, NODE_MISSING, NODE_RENEWAL, NodeLoad,
    NodeRecord, NodeState, POD_ROW, PULSE, RELEASE_NODE, RENEW_NODE, VIEW_LIFE,
};
use contract::sfu_config::RedisConfig;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use sfu_core::placement::{Candidate, Lease, PledgeAnswer, Renewal};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::Stop;
use super::link::Link;
use crate::settings::SettingsError;

/// Longest wait for a connection or an answer: within a lease there is time for two tries.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// Why Redis gave no answer that can be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The password file cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Redis refused or cannot be reached.
    #[error("Redis does not answer")]
    Redis(#[from] RedisError),
    /// No Sentinel has named it, or the cluster is not found yet.
    #[error("no Redis server is known yet")]
    NoServer,
    /// No answer in time.
    #[error("Redis did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// A value in Redis has a wrong form.
    #[error("a value in Redis has a wrong form")]
    Form(#[from] serde_json::Error),
    /// Loads that are not those of the nodes.
    #[error("what Redis says of the nodes does not fit together")]
    View,
}

/// What a node says of itself at each renewal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What it does.
    pub load: NodeLoad,
    /// Where its media is received.
    pub media: MediaAddresses,
    /// The region that it is in; empty if nobody says.
    pub region: String,
}

/// What the other tasks of the process know of this node.
struct Shared {
    nodes: Vec<Candidate>,
    /// The region that this node said it is in.
    region: String,
    /// Which records of the nodes these are.
    version: String,
    state: NodeState,
    lease: Lease,
}

/// Room homes and this node's lease in Redis.
pub struct RedisStore {
    link: Link,
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

/// Version of the nodes' records, and the living nodes.
type View = (String, Vec<Candidate>);

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
        let link = Link::new(config)?;
        let shared = Shared {
            nodes: Vec::new(),
            region: String::new(),
            version: String::new(),
            state: NodeState::Open,
            lease: Lease::default(),
        };
        Ok(Self {
            link,
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
        self.shared.lock().lease.has_settled()
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

    /// Renews the lease until [`Self::leave`]; `report` is asked each time.
    pub async fn run(&self, report: impl Fn() -> Report) {
        tokio::select! {
            () = self.renew_always(report) => {}
            () = self.link.follow() => {}
        }
    }

    async fn renew_always(&self, report: impl Fn() -> Report) {
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
            match self.renew(report()).await {
                Ok((renewal, view)) => self.renewed(sent_at, &renewal, view),
                Err(error) => {
                    if self.shared.lock().lease.missed() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "Lease not renewed");
                    }
                }
            }
        }
    }

    fn renewed(&self, sent_at: Duration, renewal: &Renewal, (version, nodes): View) {
        let mut shared = self.shared.lock();
        let is_back = shared.lease.renewed(sent_at, boot_time(), renewal);
        (shared.version, shared.nodes) = (version, nodes);
        if is_back {
            let (nodes, term) = (shared.nodes.len(), shared.lease.term());
            tracing::info!(nodes, term, "Redis answers");
            drop(shared);
            self.returned.send_replace(());
        }
    }

    /// The record of this node, and whether no renewal has succeeded yet.
    fn record(&self, media: MediaAddresses, region: String) -> (NodeRecord, bool) {
        let mut shared = self.shared.lock();
        shared.region.clone_from(&region);
        let is_settling = shared.state == NodeState::Open && shared.lease.is_bound(boot_time());
        let record = NodeRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            address: self.address,
            state: if is_settling { NodeState::Settling } else { shared.state },
            media,
            region,
        };
        (record, !shared.lease.was_held())
    }

    /// Renews the lease; answers what Redis said, and the living nodes.
    async fn renew(&self, report: Report) -> Result<(Renewal, View), StoreError> {
        let Report { load, media, region } = report;
        let (record, is_first) = self.record(media, region);
        let known = self.shared.lock().version.clone();
        let script = Script::new(RENEW_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes())
            .key(self.keys.node(&self.id))
            .key(self.keys.pod(&self.name))
            .key(self.keys.pulse())
            .key(self.keys.quiet())
            .key(self.keys.gone())
            .key(self.keys.view())
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
            .arg(self.renewals.fetch_add(1, Ordering::Relaxed))
            .arg(load.report())
            .arg(known)
            .arg(millis(VIEW_LIFE));
        let mut connection = self.link.connection()?;
        type Said = (String, u64, u64, u64, u64, Vec<String>, String, String, String);
        let (term, store_time, follows, quiet, others, gone, version, records, loads): Said =
            timeout(ANSWER_TIMEOUT, call.invoke_async(&mut connection)).await??;
        let nodes = self.candidates(&records, &loads)?;
        let living = nodes.iter().map(|node| (node.record.id.clone(), node.record.address));
        let renewal = Renewal {
            term,
            store_time,
            follows: follows == 1,
            quiet: Duration::from_millis(quiet),
            others,
            living: living.filter(|(_, address)| *address != self.address).collect(),
            gone: gone.into_iter().map(NodeId::from).collect(),
        };
        Ok((renewal, (version, nodes)))
    }

    /// The living nodes by their records, if those are others than at the last renewal, and loads.
    fn candidates(&self, records: &str, loads: &str) -> Result<Vec<Candidate>, StoreError> {
        let records: Vec<NodeRecord> = if records.is_empty() {
            self.nodes().into_iter().map(|node| node.record).collect()
        } else {
            serde_json::from_str(records)?
        };
        let loads: Vec<[u64; 6]> = serde_json::from_str(loads)?;
        if records.len() != loads.len() {
            return Err(StoreError::View);
        }
        let candidate = |(record, load): (NodeRecord, [u64; 6])| {
            let [reported @ .., reservations] = load;
            Candidate { record, load: NodeLoad::from(reported), reservations }
        };
        Ok(records.into_iter().zip(loads).map(candidate).collect())
    }

    pub(super) fn returns(&self) -> watch::Receiver<()> {
        self.returned.subscribe()
    }

    pub(super) async fn leave(&self) {
        self.stop.send_replace(true);
        self.shared.lock().lease.leave();
        let script = Script::new(RELEASE_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes())
            .key(self.keys.node(&self.id))
            .key(self.keys.gone())
            .arg(self.id.as_str());
        self.write(&call, "end the lease").await;
    }

    /// Ends the lease of a node whose port refused us: its process is gone. Not before it missed a
    /// renewal, so that two witnesses say so.
    pub(super) async fn end_node(&self, node: &NodeId) -> bool {
        let script = Script::new(END_NODE);
        let mut call = script.prepare_invoke();
        call.key(self.keys.nodes())
            .key(self.keys.node(node))
            .key(self.keys.gone())
            .arg(node.as_str())
            .arg(millis(NODE_LEASE - NODE_MISSING));
        self.write(&call, "end the lease of a node that is gone").await == Some(1)
    }

    /// Runs a script whose failure costs nothing but time: leases and rows end by themselves.
    async fn write(&self, call: &::redis::ScriptInvocation<'_>, what: &'static str) -> Option<i64> {
        let mut connection = match self.link.connection() {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, what, "Redis is not known");
                return None;
            }
        };
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
