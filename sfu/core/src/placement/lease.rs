//! A node's lease and its hold of a room: when both are good, the node admits participants.

use std::time::Duration;

use super::{Peers, Standing};

/// A node's lease as the node knows it. Times are of a clock that goes on while the machine sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    renewed_at: Option<Duration>,
    is_away: bool,
    peers: Peers,
    term: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self { renewed_at: None, is_away: false, peers: Peers::Silent, term: 0 }
    }
}

impl Lease {
    /// The renewal that was sent at `sent_at` succeeded; `was_known` says whether the store had the
    /// lease until then. `true` when rooms must have their homes confirmed: others may have taken
    /// them, or the store may have forgotten them.
    pub fn renewed(&mut self, sent_at: Duration, was_known: bool, is_alone: bool) -> bool {
        let is_new_term = self.renewed_at.is_some() && !was_known;
        self.term += u64::from(is_new_term);
        self.peers = if is_alone { Peers::None } else { Peers::Silent };
        self.renewed_at = Some(sent_at);
        std::mem::replace(&mut self.is_away, false) || is_new_term
    }

    /// A renewal failed; `true` for the first of several.
    pub fn missed(&mut self) -> bool {
        !std::mem::replace(&mut self.is_away, true)
    }

    /// What the other nodes said of their leases.
    pub fn heard(&mut self, peers: Peers, now: Duration) {
        if self.standing(now).wants_peers() {
            self.peers = peers;
        }
    }

    /// What is known at `now`.
    pub fn standing(&self, now: Duration) -> Standing {
        let since_renewal = self.renewed_at.map(|at| now.saturating_sub(at));
        Standing { since_renewal, peers: self.peers }
    }

    /// Rises each time that the lease had ended, or was forgotten, before it was renewed.
    pub fn term(&self) -> u64 {
        self.term
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
    /// Nowhere, and this node has no lease in the store; or the store did not answer.
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
    has_moved: bool,
}

impl Hold {
    /// A home that was claimed under this epoch; the node was in this term before it asked.
    pub fn new(epoch: String, term: u64) -> Self {
        Self { epoch, confirmed: Some(term), has_moved: false }
    }

    /// Whether the room may admit participants, where the node's lease is good.
    pub fn may_admit(&self, term: u64) -> bool {
        self.confirmed == Some(term) && !self.has_moved
    }

    /// Takes the store's answer to a question that was asked in this term.
    pub fn kept(&mut self, term: u64, kept: Kept) -> Verdict {
        match kept {
            Kept::Here(epoch) => {
                self.confirmed = Some(term);
                let is_same = std::mem::replace(&mut self.epoch, epoch) == self.epoch;
                if is_same { Verdict::Stays } else { Verdict::Rewrite }
            }
            Kept::Elsewhere => {
                self.moved();
                Verdict::Gone
            }
            Kept::Unknown => Verdict::AskAgain,
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
        assert!(!lease.renewed(seconds(1), false, false), "the first is always unknown");
        assert!(!lease.renewed(seconds(2), true, false));
        assert_eq!(lease.term(), 0);
        assert!(lease.renewed(seconds(3), false, false));
        assert_eq!(lease.term(), 1);
        assert!(lease.missed() && !lease.missed());
        assert!(lease.renewed(seconds(4), true, false), "the store was away");
        assert_eq!(lease.term(), 1, "and kept the lease");
    }

    #[test]
    fn a_room_of_an_earlier_term_admits_when_it_was_confirmed() {
        let mut hold = Hold::new("1".to_owned(), 0);
        assert!(hold.may_admit(0) && !hold.may_admit(1));
        assert_eq!(hold.kept(1, Kept::Unknown), Verdict::AskAgain);
        assert!(!hold.may_admit(1));
        assert_eq!(hold.kept(1, Kept::Here("2".to_owned())), Verdict::Rewrite);
        assert!(hold.may_admit(1));
        assert_eq!(hold.epoch(), "2");
        hold.doubt();
        assert!(!hold.may_admit(1));
        assert_eq!(hold.kept(1, Kept::Here("2".to_owned())), Verdict::Stays);
        assert_eq!(hold.kept(1, Kept::Elsewhere), Verdict::Gone);
        assert!(!hold.may_admit(1));
    }
}
