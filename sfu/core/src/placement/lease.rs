//! A node's lease: until when the node may act as a home, and whether it may begin rooms.
//!
//! A renewal that succeeded lets the node act as the home of its rooms until shortly before Redis
//! ends the lease. Without Redis it goes on as long as every other node has pledged lately to
//! begin no room, or is gone: then Redis is down, and nobody takes a room from anybody. Once its
//! time ran out only a renewal helps. The whole argument is in `docs/decisions/0004-one-home.md`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use contract::ids::NodeId;
use contract::redis::{NODE_LEASE, NODE_MEMORY, NODE_MISSING};

use super::store_clock::StoreClock;

/// How long before the end of its lease, or of a pledge, a node stops to act as a home.
const FENCE_MARGIN: Duration = Duration::from_secs(1);
/// How long after it was asked for a pledge is relied on.
const RELIANCE: Duration = NODE_LEASE.saturating_sub(FENCE_MARGIN);
/// A node that has not renewed for so long begins no rooms.
const CANNOT_BEGIN: Duration = Duration::from_secs(2);
/// A pledge is asked for again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What Redis said to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Which lease this is; another whenever the one before had ended.
    pub term: String,
    /// The time of Redis, in milliseconds.
    pub store_time: u64,
    /// This process follows an earlier one of its pod that others knew.
    pub follows: bool,
    /// Time until rooms begin.
    pub quiet: Duration,
    /// Nodes other than this one that have lived lately.
    pub others: u64,
    /// Those of them that live, and where they are reached.
    pub living: Vec<(NodeId, SocketAddr)>,
    /// Nodes that are gone for certain: they left, or their processes are dead.
    pub gone: Vec<NodeId>,
}

/// What came of asking another node for a pledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PledgeAnswer {
    /// It begins no room for the time of a lease.
    Pledged,
    /// It reaches Redis.
    Refused,
    /// No process is there.
    Gone,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Neighbour {
    id: NodeId,
    seen_at: Duration,
    /// When the pledge was asked for that it gave last.
    pledged: Option<Duration>,
}

/// A node's lease as the node knows it. Times are of a clock that goes on while the machine sleeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lease {
    renewed_at: Option<Duration>,
    neighbours: BTreeMap<SocketAddr, Neighbour>,
    serves_until: Duration,
    /// Until then it has pledged to begin no room.
    bound_until: Duration,
    clock: Option<StoreClock>,
    is_away: bool,
    has_left: bool,
    has_settled: bool,
    term: u64,
    term_name: String,
    /// The term that began when this node had stopped to act as a home; 0 when it never did.
    fenced_term: u64,
}

impl Lease {
    /// The renewal that was sent at `sent_at` succeeded by `now`. `true` when rooms must have their
    /// homes confirmed: others may have taken them, or the store may have forgotten them.
    pub fn renewed(&mut self, sent_at: Duration, now: Duration, renewal: &Renewal) -> bool {
        if self.has_left || self.renewed_at.is_some_and(|at| sent_at < at) {
            return false;
        }
        let is_first = self.renewed_at.is_none();
        let has_jumped = self.learn_time(sent_at, now, renewal.store_time);
        if has_jumped || is_first && renewal.follows {
            self.bound_until = self.bound_until.max(now + NODE_LEASE);
        }
        let is_new_term = !is_first && self.term_name != renewal.term;
        self.term_name.clone_from(&renewal.term);
        self.term += u64::from(is_new_term);
        if is_new_term && !self.may_serve(now) {
            self.fenced_term = self.term;
        }
        self.renewed_at = Some(sent_at);
        self.see(sent_at, renewal);
        // In the quiet time others may not have come back yet.
        let is_quiet = !renewal.quiet.is_zero();
        let is_alone = self.neighbours.is_empty() && renewal.others == 0 && !is_quiet;
        self.serves_until = if is_alone {
            Duration::MAX
        } else if self.serves_until == Duration::MAX {
            sent_at + RELIANCE
        } else {
            self.serves_until.max(sent_at + RELIANCE)
        };
        self.has_settled |= !is_quiet && !self.is_bound(now);
        std::mem::replace(&mut self.is_away, false) || is_new_term
    }

    /// Notes who is there. Whoever is not seen any more, and not known to be gone, may live all the
    /// same for a while.
    fn see(&mut self, sent_at: Duration, renewal: &Renewal) {
        self.neighbours.retain(|_, neighbour| {
            let is_remembered = sent_at.saturating_sub(neighbour.seen_at) < NODE_MEMORY;
            is_remembered && !renewal.gone.contains(&neighbour.id)
        });
        for (id, address) in &renewal.living {
            let neighbour = Neighbour { id: id.clone(), seen_at: sent_at, pledged: None };
            self.neighbours.insert(*address, neighbour);
        }
    }

    fn learn_time(&mut self, sent_at: Duration, now: Duration, store_time: u64) -> bool {
        let seen = StoreClock::new(sent_at, now, store_time);
        match &mut self.clock {
            Some(clock) => clock.learn(seen),
            none => {
                *none = Some(seen);
                false
            }
        }
    }

    /// A renewal failed; `true` for the first of several.
    pub fn missed(&mut self) -> bool {
        !std::mem::replace(&mut self.is_away, true)
    }

    /// Whether the last renewal failed.
    pub fn is_away(&self) -> bool {
        self.is_away
    }

    /// The lease was given back.
    pub fn leave(&mut self) {
        self.has_left = true;
        self.serves_until = Duration::ZERO;
    }

    /// Whose pledges are wanted now.
    pub fn wants_pledges(&self, now: Duration) -> Vec<SocketAddr> {
        let Some(renewed_at) = self.renewed_at else { return Vec::new() };
        if now.saturating_sub(renewed_at) < NODE_MISSING || !self.may_serve(now) {
            return Vec::new();
        }
        let is_old = |neighbour: &Neighbour| {
            neighbour.pledged.is_none_or(|at| now.saturating_sub(at) >= ASK_AGAIN)
        };
        let old = self.neighbours.iter().filter(|(_, neighbour)| is_old(neighbour));
        old.map(|(address, _)| *address).collect()
    }

    /// What another node said when it was asked for its pledge at `asked_at`.
    pub fn heard(
        &mut self,
        address: SocketAddr,
        asked_at: Duration,
        now: Duration,
        answer: PledgeAnswer,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return };
        match answer {
            PledgeAnswer::Pledged | PledgeAnswer::Gone => {
                neighbour.pledged = neighbour.pledged.max(Some(asked_at));
            }
            PledgeAnswer::Refused => neighbour.pledged = None,
        }
        // Who had to stop may have lost rooms since: no pledge gives them back.
        if !self.may_serve(now) {
            return;
        }
        let oldest = self.neighbours.values().map(|neighbour| neighbour.pledged).min().flatten();
        if let Some(oldest) = oldest {
            self.serves_until = self.serves_until.max(oldest + RELIANCE);
        }
    }

    /// Where a node is reached that was there lately and is not known to be gone.
    pub fn address_of(&self, node: &NodeId) -> Option<SocketAddr> {
        let found = self.neighbours.iter().find(|(_, neighbour)| neighbour.id == *node);
        found.map(|(address, _)| *address)
    }

    /// Another node asks for a pledge: whether it is given.
    pub fn pledge(&mut self, now: Duration) -> bool {
        if self.renewed_at.is_some_and(|at| now.saturating_sub(at) < NODE_MISSING) {
            return false;
        }
        self.bound_until = self.bound_until.max(now + NODE_LEASE);
        true
    }

    /// Whether the node may act as a home: admit participants and write rooms' state.
    pub fn may_serve(&self, now: Duration) -> bool {
        now < self.serves_until
    }

    /// What the time of Redis is now, if this node may begin rooms, in milliseconds.
    pub fn may_begin(&self, now: Duration) -> Option<u64> {
        let renews = self.renewed_at.is_some_and(|at| now.saturating_sub(at) < CANNOT_BEGIN);
        let clock = self.clock.filter(|_| renews && !self.is_bound(now) && !self.has_left)?;
        Some(clock.at(now))
    }

    /// Whether it has pledged to begin no room.
    pub fn is_bound(&self, now: Duration) -> bool {
        now < self.bound_until
    }

    /// Whether there was a time at which this node could begin rooms.
    pub fn has_settled(&self) -> bool {
        self.has_settled
    }

    /// Rises each time that the lease had ended, or was forgotten, before it was renewed.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// A room that was confirmed last in an earlier term than this may have had another home since:
    /// it is not asserted where the store knows nothing of it.
    pub fn fenced_term(&self) -> u64 {
        self.fenced_term
    }

    /// Whether it was ever granted.
    pub fn was_held(&self) -> bool {
        self.renewed_at.is_some()
    }
}

#[cfg(test)]
mod tests;
