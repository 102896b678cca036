//! A node's lease and its hold of a room: when both are good, the node admits participants.

use std::time::Duration;

use contract::redis::NODE_LEASE;

use super::{Peers, Standing};

/// What was said of the others holds for so long: a process that was stopped for longer knows
/// nothing of them when it goes on.
const NEWS: Duration = Duration::from_secs(3);

/// A node's lease as the node knows it. Times are of a clock that goes on while the machine sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    renewed_at: Option<Duration>,
    is_away: bool,
    peers: Peers,
    /// When another node may have lived last. A store that forgot everything shows nobody but the
    /// first that comes back: only after a lease is a node known to be the only one.
    company_at: Duration,
    /// When anything was learnt last, be it that Redis does not answer.
    noted_at: Duration,
    term: u64,
    /// The term that began when this node had stopped to act as a home; 0 when it never did.
    fenced_term: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            renewed_at: None,
            is_away: false,
            peers: Peers::Silent,
            company_at: Duration::ZERO,
            noted_at: Duration::ZERO,
            term: 0,
            fenced_term: 0,
        }
    }
}

impl Lease {
    /// The renewal that was sent at `sent_at` succeeded by `now`; `was_known` says whether the store had the
    /// lease until then. `true` when rooms must have their homes confirmed: others may have taken
    /// them, or the store may have forgotten them.
    pub fn renewed(
        &mut self,
        sent_at: Duration,
        now: Duration,
        was_known: bool,
        is_alone: bool,
    ) -> bool {
        let is_new_term = self.renewed_at.is_some() && !was_known;
        self.term += u64::from(is_new_term);
        if is_new_term && !self.standing(now).may_serve() {
            self.fenced_term = self.term;
        }
        if !is_alone || !was_known {
            self.company_at = sent_at;
        }
        self.noted_at = now;
        let was_alone = sent_at.saturating_sub(self.company_at) > NODE_LEASE;
        self.peers = if was_alone { Peers::None } else { Peers::Silent };
        self.renewed_at = Some(sent_at);
        std::mem::replace(&mut self.is_away, false) || is_new_term
    }

    /// A renewal failed; `true` for the first of several.
    pub fn missed(&mut self, now: Duration) -> bool {
        self.noted_at = now;
        !std::mem::replace(&mut self.is_away, true)
    }

    /// What the other nodes said of their leases.
    pub fn heard(&mut self, peers: Peers, now: Duration) {
        // Who was not alone with the last renewal is not by having forgotten the others.
        if self.standing(now).wants_peers() && peers != Peers::None {
            self.peers = peers;
            self.noted_at = now;
        }
    }

    /// What is known at `now`.
    pub fn standing(&self, now: Duration) -> Standing {
        let since_renewal = self.renewed_at.map(|at| now.saturating_sub(at));
        let is_news = now.saturating_sub(self.noted_at) < NEWS;
        Standing { since_renewal, peers: if is_news { self.peers } else { Peers::Silent } }
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

/// Where the store says that a room is at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// On this node, under this epoch.
    Here(String),
    /// On another node.
    Elsewhere,
    /// Nowhere that lives.
    Nowhere,
    /// The store did not answer.
    Unknown,
}

/// What follows for a room from [`Kept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Stays,
    /// It stays, but its row was lost and is written anew.
    Rewrite,
    /// Nobody knows; it is asked again.
    AskAgain,
    /// It has another home, and ends here.
    Gone,
}

/// A node's hold of one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    epoch: String,
    /// The term of the node's lease in which the home was confirmed; `None` while it is doubtful.
    confirmed: Option<u64>,
    last_confirmed: u64,
    has_moved: bool,
}

impl Hold {
    /// A home that was claimed under this epoch; the node was in this term before it asked.
    pub fn new(epoch: String, term: u64) -> Self {
        Self { epoch, confirmed: Some(term), last_confirmed: term, has_moved: false }
    }

    /// Whether the room may admit participants, where the node's lease is good.
    pub fn may_admit(&self, term: u64) -> bool {
        self.confirmed == Some(term) && !self.has_moved
    }

    /// Whether the room may be asserted where the store knows nothing of it: the node has acted as
    /// its home all the time.
    pub fn may_assert(&self, fenced_term: u64) -> bool {
        self.last_confirmed >= fenced_term
    }

    /// Takes the store's answer to a question that was asked in this term.
    ///
    /// `asserted` says whether it would have been given the room where nobody had it.
    pub fn kept(&mut self, term: u64, asserted: bool, kept: Kept) -> Verdict {
        match kept {
            Kept::Here(epoch) => {
                self.confirmed = Some(term);
                self.last_confirmed = term;
                let is_same = std::mem::replace(&mut self.epoch, epoch) == self.epoch;
                if is_same { Verdict::Stays } else { Verdict::Rewrite }
            }
            Kept::Elsewhere => {
                self.moved();
                Verdict::Gone
            }
            Kept::Nowhere if !asserted => {
                self.moved();
                Verdict::Gone
            }
            // Not even this node lives in the store: the next renewal says more.
            Kept::Nowhere | Kept::Unknown => Verdict::AskAgain,
        }
    }

    /// It may have been given away: nobody is admitted before the store was asked.
    pub fn doubt(&mut self) {
        self.confirmed = None;
    }

    /// It was given away.
    pub fn moved(&mut self) {
        self.has_moved = true;
    }

    /// Whether it has another home.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Under which this node is the home.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_that_the_store_forgot_begins_a_new_term() {
        let mut lease = Lease::default();
        assert!(
            !lease.renewed(seconds(1), seconds(1), false, false),
            "the first is always unknown"
        );
        assert!(!lease.renewed(seconds(2), seconds(2), true, false));
        assert_eq!(lease.term(), 0);
        assert!(lease.renewed(seconds(3), seconds(3), false, false));
        assert_eq!(lease.term(), 1);
        assert_eq!(lease.fenced_term(), 0, "it acted as a home all the time");
        assert!(lease.missed(seconds(3)) && !lease.missed(seconds(3)));
        assert!(lease.renewed(seconds(4), seconds(4), true, false), "the store was away");
        assert_eq!(lease.term(), 1, "and kept the lease");
        assert!(lease.renewed(seconds(20), seconds(20), false, false));
        assert_eq!(lease.fenced_term(), 2, "it had fenced");
    }

    #[test]
    fn a_node_is_the_only_one_after_a_lease_without_others() {
        let mut lease = Lease::default();
        let cut_off = |lease: &Lease, at: u64| {
            let mut lease = lease.clone();
            let stopped = lease.standing(seconds(at + 60)).may_serve();
            assert!(!stopped, "a process that was stopped knows nothing");
            lease.missed(seconds(at + 59));
            lease.standing(seconds(at + 60)).may_serve()
        };
        lease.renewed(seconds(1), seconds(1), false, true);
        assert!(!cut_off(&lease, 1), "others may come back yet");
        lease.renewed(seconds(5), seconds(5), true, true);
        assert!(!cut_off(&lease, 5));
        lease.renewed(seconds(6), seconds(6), true, true);
        assert!(cut_off(&lease, 6));
        lease.heard(Peers::None, seconds(66));
        assert!(cut_off(&lease, 6));
        lease.renewed(seconds(67), seconds(67), true, false);
        assert!(!cut_off(&lease, 67));
    }

    #[test]
    fn a_room_of_an_earlier_term_admits_when_it_was_confirmed() {
        let mut hold = Hold::new("1".to_owned(), 0);
        assert!(hold.may_admit(0) && !hold.may_admit(1));
        assert_eq!(hold.kept(1, true, Kept::Unknown), Verdict::AskAgain);
        assert!(!hold.may_admit(1));
        assert_eq!(hold.kept(1, true, Kept::Here("2".to_owned())), Verdict::Rewrite);
        assert!(hold.may_admit(1));
        assert_eq!(hold.epoch(), "2");
        hold.doubt();
        assert!(!hold.may_admit(1));
        assert_eq!(hold.kept(1, true, Kept::Here("2".to_owned())), Verdict::Stays);
        assert_eq!(hold.kept(1, true, Kept::Nowhere), Verdict::AskAgain);
        assert!(hold.may_assert(1) && !hold.may_assert(2));
        assert_eq!(hold.clone().kept(2, false, Kept::Nowhere), Verdict::Gone);
        assert_eq!(hold.kept(1, true, Kept::Elsewhere), Verdict::Gone);
        assert!(!hold.may_admit(1));
    }
}
