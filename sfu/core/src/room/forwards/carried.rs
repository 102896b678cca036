//! What a room forwards, as its next home takes it over: participants that come back there are
//! forwarded again.

use std::time::Instant;

use contract::ids::{Identity, RoomName};
use serde::{Deserialize, Serialize};

use super::{Forwards, MAX_FORWARDS};
use crate::room::{Room, RoomOutput};
use crate::time::Now;

/// A participant of this room and the room that shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::room) struct KeptForward {
    identity: Identity,
    destination: RoomName,
}

/// Forwarded at the room's earlier home, by a participant who is not back yet.
#[derive(Debug)]
pub(super) struct Carried {
    forward: KeptForward,
    /// Who comes later is not forwarded again.
    until: Instant,
}

impl Forwards {
    /// It is forwarded at this home, too.
    pub(super) fn take_up(&mut self, identity: &Identity, destination: &RoomName) {
        self.carried.retain(|carried| {
            carried.forward.identity != *identity || carried.forward.destination != *destination
        });
    }
}

impl Room {
    /// What the next home shall forward.
    pub(in crate::room) fn kept_forwards(&self) -> Vec<KeptForward> {
        let live = self.forwards.live.values().map(|forward| KeptForward {
            identity: forward.told.identity.clone(),
            destination: forward.destination.clone(),
        });
        let carried = self.forwards.carried.iter().map(|carried| carried.forward.clone());
        live.chain(carried).take(MAX_FORWARDS).collect()
    }

    /// Takes over what the earlier home forwarded, for participants who are back by `until`.
    pub(in crate::room) fn restore_forwards(&mut self, kept: Vec<KeptForward>, until: Instant) {
        let carried = |forward| Carried { forward, until };
        self.forwards.carried = kept.into_iter().take(MAX_FORWARDS).map(carried).collect();
    }

    /// Somebody joined: asks for what the earlier home forwarded of it. The shell answers with
    /// [`Room::forward_participant`].
    pub(in crate::room) fn forward_again(&mut self, identity: &Identity, now: Now) {
        self.forwards.carried.retain(|carried| now.instant < carried.until);
        for Carried { forward, until: _ } in &self.forwards.carried {
            if forward.identity == *identity {
                self.output.push_back(RoomOutput::ForwardAgain {
                    identity: identity.clone(),
                    destination: forward.destination.clone(),
                });
            }
        }
    }
}
