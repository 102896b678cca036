//! Whether a node may act as a home: admit participants and write rooms' state.
//!
//! With Redis answering, a lease that lives is all there is to know. Without, the node must find
//! out who is away. If a peer still renews, this node is cut off, and others will take its rooms:
//! it fences before its lease ends. If peers answer and none has renewed for longer than this node,
//! Redis is down, nobody can take a room from anybody, and everybody goes on. A Redis that ends
//! after this node was cut off changes nothing: its rooms may be elsewhere. If nobody answers, the node cannot tell and fences,
//! unless it was the only one.

use std::time::Duration;

use contract::redis::{NODE_LEASE, NODE_RENEWAL};

/// How long before the end of its lease a node that is cut off stops to act as a home.
const FENCE_MARGIN: Duration = Duration::from_secs(1);
/// A peer that renewed within this time still reaches Redis: had Redis ended when this node lost
/// it, no peer's last renewal could be as young by the time that this is asked.
const STILL_RENEWS: Duration = Duration::from_secs(2);
/// How much later than this node a peer may have renewed last where Redis ended for both at once.
const SAME_END: Duration = Duration::from_secs(2);

/// What the other nodes said of their leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// There were none when Redis was last heard of.
    None,
    /// None has answered.
    Silent,
    /// Some answered; the youngest of their renewals was so long ago.
    Answered {
        /// Time since the youngest renewal.
        youngest_renewal: Duration,
    },
}

/// What a node knows of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Time since the last renewal that succeeded was sent, by a clock that goes on while the
    /// machine sleeps; `None` before the first.
    pub since_renewal: Option<Duration>,
    /// What the others said last.
    pub peers: Peers,
}

impl Standing {
    /// Whether the node may act as a home.
    pub fn may_serve(&self) -> bool {
        let Some(since_renewal) = self.since_renewal else { return false };
        if since_renewal < NODE_LEASE - FENCE_MARGIN {
            return true;
        }
        match self.peers {
            Peers::None => true,
            Peers::Silent => false,
            Peers::Answered { youngest_renewal } => {
                let later = since_renewal.saturating_sub(youngest_renewal);
                youngest_renewal >= STILL_RENEWS && later <= SAME_END
            }
        }
    }

    /// Whether the node may ask for new homes: where its own renewals fail, those of living homes
    /// may, too.
    pub fn may_claim(&self) -> bool {
        self.since_renewal.is_some_and(|since| since < STILL_RENEWS)
    }

    /// Whether it is time to ask the others: a renewal was missed.
    pub fn wants_peers(&self) -> bool {
        self.since_renewal.is_some_and(|since| since > NODE_RENEWAL + NODE_RENEWAL / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_decides() {
        let answered = |millis| Peers::Answered { youngest_renewal: Duration::from_millis(millis) };
        let cases = [
            (None, Peers::None, false, "never had a lease"),
            (Some(0), Peers::Silent, true, "the lease lives"),
            (Some(2_999), answered(0), true, "the lease lives for a second yet"),
            (Some(3_000), answered(1_000), false, "a peer renews: this node is cut off"),
            (Some(3_000), answered(2_000), true, "nobody renews: Redis is down"),
            (Some(600_000), answered(599_000), true, "for however long"),
            (Some(20_000), answered(5_000), false, "it was cut off long before Redis ended"),
            (Some(3_000), Peers::Silent, false, "it cannot tell"),
            (Some(600_000), Peers::None, true, "it was the only node"),
        ];
        for (since, peers, serves, why) in cases {
            let since_renewal = since.map(Duration::from_millis);
            assert_eq!(Standing { since_renewal, peers }.may_serve(), serves, "{why}");
        }
    }

    #[test]
    fn peers_are_asked_before_the_fence() {
        let wants = |millis| {
            let since_renewal = Some(Duration::from_millis(millis));
            Standing { since_renewal, peers: Peers::Silent }.wants_peers()
        };
        assert!(!wants(1_100));
        assert!(wants(1_600));
    }
}
