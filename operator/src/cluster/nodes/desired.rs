//! What the media nodes should be.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::cluster::validate::ValidCluster;

/// What should be, and when that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired<'a> {
    /// Media nodes.
    pub nodes: u16,
    /// Slots that the port range has room for.
    pub slots: u16,
    /// Hash of what pods are made from.
    pub revision: &'a str,
    /// How long a cordoned node waits for its rooms to end.
    pub drain_timeout: Duration,
    /// Rooms that a draining node moves per second.
    pub rooms_per_second: u16,
    /// The time of the look.
    pub now: Timestamp,
}

impl<'a> Desired<'a> {
    /// What a valid cluster wants.
    #[must_use]
    pub fn of(valid: &ValidCluster, revision: &'a str, now: Timestamp) -> Self {
        Self {
            nodes: valid.spec.nodes,
            slots: valid.slots,
            revision,
            drain_timeout: valid.drain_timeout,
            rooms_per_second: valid.spec.drain.rooms_per_second,
            now,
        }
    }

    /// Time that has passed since `then`; none when that is to come.
    pub(super) fn since(&self, then: Timestamp) -> Duration {
        Duration::try_from(self.now.duration_since(then)).unwrap_or_default()
    }
}
