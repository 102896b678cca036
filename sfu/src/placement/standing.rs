//! Asks the other nodes of their leases while Redis does not answer this one: is Redis away, or is
//! this node? What follows from the answers is decided in `sfu_core::placement`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use contract::redis::NodeRecord;
use futures::future::join_all;
use rand::seq::IndexedRandom as _;
use sfu_core::placement::Peers;

use super::{Placement, RedisStore};
use crate::peer::PeerClient;

/// Path by which nodes ask each other how long ago they renewed.
pub const LEASE: &str = "/peer/lease";
/// How often the others are asked.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_millis(400);
/// Nodes that are asked at a time: one that renews would be enough.
const ASKED: usize = 5;

/// Milliseconds since this node renewed its lease, as text; `never` before the first time.
pub fn since_renewal(placement: &Placement) -> String {
    let since = match placement {
        Placement::Memory(_) => None,
        Placement::Redis(store) => store.standing().since_renewal,
    };
    since.map_or_else(|| "never".to_owned(), |since| since.as_millis().to_string())
}

/// Asks the others for as long as a renewal is missing; never ends.
pub async fn watch_peers(store: &RedisStore, peers: Arc<PeerClient>, own_name: &str) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !store.standing().wants_peers() {
            continue;
        }
        let nodes = store.nodes().into_iter().map(|node| node.record);
        let others: Vec<NodeRecord> = nodes.filter(|node| node.id != *store.node_id()).collect();
        let asked: Vec<&NodeRecord> = others.sample(&mut rand::rng(), ASKED).collect();
        let answers = asked.into_iter().map(|node| ask(&peers, node, own_name));
        let youngest = join_all(answers).await.into_iter().flatten().min();
        let said = match youngest {
            Some(youngest_renewal) => Peers::Answered { youngest_renewal },
            None if others.is_empty() => Peers::None,
            None => Peers::Silent,
        };
        tracing::debug!(?said, "Redis does not answer");
        store.set_peers(said);
    }
}

async fn ask(peers: &PeerClient, node: &NodeRecord, own_name: &str) -> Option<Duration> {
    let answer = peers.post(node.address, own_name, LEASE, Bytes::new(), TIMEOUT).await?;
    std::str::from_utf8(&answer).ok()?.parse().ok().map(Duration::from_millis)
}
