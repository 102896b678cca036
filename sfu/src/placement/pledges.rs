//! Asks the other nodes for pledges to begin no rooms while Redis does not answer this one: as long
//! as all give them, rooms that live here may go on. What follows from the answers is decided in
//! `sfu_core::placement`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use sfu_core::placement::PledgeAnswer;

use super::RedisStore;
use super::redis::boot_time;
use crate::peer::PeerClient;

/// Path by which nodes ask each other for pledges.
pub const PLEDGE: &str = "/peer/pledge";
/// The answer of a node that begins no room for the time of a lease.
pub const PLEDGED: &str = "pledged";
/// The answer of a node that reaches Redis.
pub const REFUSED: &str = "refused";
/// How often this node looks whether it wants pledges.
const INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_millis(800);

/// Asks for as long as renewals are missing; never ends.
pub async fn ask_for_pledges(store: &RedisStore, peers: Arc<PeerClient>, own_name: &str) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some((address, asked_at, answer)) = asked.next() => {
                tracing::debug!(%address, ?answer, "Redis does not answer");
                if let Some(answer) = answer {
                    store.heard(address, asked_at, answer);
                }
                continue;
            }
        }
        // Those who were asked last have answered, or are given up.
        if asked.is_empty() {
            let wanted = store.wants_pledges().into_iter();
            asked.extend(wanted.map(|address| ask(&peers, address, own_name)));
        }
    }
}

async fn ask(
    peers: &PeerClient,
    address: SocketAddr,
    own_name: &str,
) -> (SocketAddr, Duration, Option<PledgeAnswer>) {
    let asked_at = boot_time();
    let answer = match peers.try_post(address, own_name, PLEDGE, Bytes::new(), TIMEOUT).await {
        Ok(answer) if answer == PLEDGED.as_bytes() => Some(PledgeAnswer::Pledged),
        Ok(_) => Some(PledgeAnswer::Refused),
        Err(error) => error.is_gone().then_some(PledgeAnswer::Gone),
    };
    (address, asked_at, answer)
}
