//! Media pods: what there is ([`observe`]), what should be ([`Desired`]), the actions that lead
//! from one to the other ([`plan()`]) and how they are carried out ([`carry_out()`]).
//!
//! A node lives Open → Cordoned → Draining → gone. The state is on the pod itself (label
//! `livecluster.dev/placement`, annotations), so an operator that starts anew goes on where the
//! last one ended, and it can be taken back until the pod is deleted. It never acts through
//! readiness: a node that leaves serves its rooms until they ended or moved.

use std::fmt;

use contract::node_state::NodeState;
use k8s_openapi::jiff::Timestamp;

mod addresses;
mod carry_out;
mod desired;
mod hosts;
mod observe;
mod plan;

pub use addresses::discover;
pub use carry_out::{CarriedOut, Refusal, carry_out};
pub use desired::Desired;
pub use hosts::Hosts;
pub use observe::{count, observe, slot_of};
pub use plan::{Plan, plan};

/// A media pod as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePod {
    /// Name of the pod.
    pub name: String,
    /// Its unique id.
    pub uid: String,
    /// Its slot; `None` when the label is no number.
    pub slot: Option<u16>,
    /// Hash of what it was made from.
    pub revision: String,
    /// Version of the media node, as its image says.
    pub version: Option<String>,
    /// How far it is.
    pub phase: NodePhase,
    /// What it is for.
    pub placement: Placement,
    /// What it does.
    pub occupancy: Occupancy,
    /// The Kubernetes node it runs on.
    pub host: Option<String>,
    /// What that Kubernetes node is about to do.
    pub host_state: HostState,
    /// The zone of that Kubernetes node.
    pub zone: Option<String>,
    /// The region of that Kubernetes node.
    pub region: Option<String>,
    /// Its address in the pod network.
    pub ip: Option<String>,
    /// Where clients reach it, separated by commas: addresses of the Kubernetes node, or of its load
    /// balancer.
    pub addresses: Option<String>,
    /// The addresses that the pod was told.
    pub told_addresses: Option<String>,
    /// How many pods ended early, one after the other, before this one.
    pub attempt: u16,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// When it ended, where it has.
    pub ended: Option<Timestamp>,
    /// Why it does not start, in Kubernetes's words.
    pub trouble: Option<Trouble>,
}

#[cfg(test)]
impl NodePod {
    /// An empty node that takes rooms, for tests to change.
    pub(crate) fn open(slot: u16) -> Self {
        Self {
            name: crds::names::node("demo", slot),
            uid: format!("uid-{slot}"),
            slot: Some(slot),
            revision: "r".to_owned(),
            version: None,
            phase: NodePhase::Ready,
            placement: Placement::Open,
            occupancy: Occupancy::EMPTY,
            host: None,
            host_state: HostState::Up,
            zone: None,
            region: None,
            ip: None,
            addresses: None,
            told_addresses: None,
            attempt: 0,
            created: None,
            ended: None,
            trouble: None,
        }
    }
}

/// Why a pod does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word, such as `ImagePullBackOff` or `Unschedulable`.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePhase {
    /// It starts, or is not ready.
    Starting,
    /// Its readiness probe succeeds.
    Ready,
    /// It ended and will not start again.
    Ended,
    /// It is being deleted.
    Terminating,
}

/// What a pod is for, as its label and annotations say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// It never took traffic.
    New,
    /// It takes new rooms.
    Open,
    /// It takes no new rooms.
    Cordoned {
        /// Since when; a pod that somebody else labelled has been it for ever.
        since: Timestamp,
        /// Why.
        reason: LeaveReason,
    },
    /// It moves its rooms to other nodes.
    Draining {
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: LeaveReason,
    },
}

/// What a media node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupancy {
    /// It has not answered lately: it may do anything.
    Unknown,
    /// It answered, or cannot do anything.
    Known {
        /// Rooms that have their home there.
        rooms: i64,
        /// Participants that subscribe to at least one track.
        subscribers: i64,
    },
}

impl Occupancy {
    /// Nobody is there.
    pub const EMPTY: Self = Self::Known { rooms: 0, subscribers: 0 };
}

/// What a Kubernetes node is about to do with its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// Nothing is known against it.
    Up,
    /// It takes no new pods: somebody is about to empty it.
    Cordoned,
    /// It ends within minutes, whatever runs there.
    Interrupted,
    /// Nobody has heard of it for a while.
    Lost,
}

/// Why a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// There are more than desired.
    ScaledIn,
    /// It is of an earlier specification.
    Replaced,
    /// Its Kubernetes node is cordoned.
    HostCordoned,
    /// Its Kubernetes node ends within minutes.
    HostInterrupted,
}

impl LeaveReason {
    /// All reasons.
    const ALL: [Self; 4] =
        [Self::ScaledIn, Self::Replaced, Self::HostCordoned, Self::HostInterrupted];

    /// The reason of Events, and the value of the annotation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScaledIn => "NodeScaledIn",
            Self::Replaced => "NodeReplaced",
            Self::HostCordoned => "HostCordoned",
            Self::HostInterrupted => "HostInterrupted",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// Why a pod is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// It ended by itself.
    Ended,
    /// It left as planned.
    Left(LeaveReason),
    /// It could not move its rooms in time.
    TimedOut(LeaveReason),
}

impl DeleteReason {
    /// The reason of the Event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "NodeEnded",
            Self::Left(reason) => reason.as_str(),
            Self::TimedOut(_) => "NodeDrainTimedOut",
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeAction {
    /// Make the pod of a slot.
    Create {
        /// The slot.
        slot: u16,
        /// How many pods ended early before it.
        attempt: u16,
    },
    /// Tell a pod its addresses, and let it take traffic.
    Open {
        /// Name of the pod.
        name: String,
        /// Its unique id: never its successor.
        uid: String,
        /// The addresses, separated by commas.
        addresses: String,
        /// The region that it is in; empty if nobody says.
        region: String,
        /// It was about to leave.
        again: bool,
    },
    /// Let a pod take no new rooms, or move those that it has.
    Close {
        /// Name of the pod.
        name: String,
        /// Its unique id.
        uid: String,
        /// What it is told.
        state: NodeState,
        /// When it is told.
        since: Timestamp,
        /// Why.
        reason: LeaveReason,
        /// What spoke for this pod, for people.
        because: String,
    },
    /// Delete a pod.
    Delete {
        /// Name of the pod.
        name: String,
        /// Its unique id.
        uid: String,
        /// Why.
        reason: DeleteReason,
    },
}

impl NodePod {
    /// It lives, on a Kubernetes node that may do so too.
    fn is_alive(&self) -> bool {
        let is_lost = self.host_state == HostState::Lost;
        match self.phase {
            NodePhase::Starting | NodePhase::Ready => !is_lost,
            NodePhase::Ended | NodePhase::Terminating => false,
        }
    }

    /// It leaves, or is about to: it belongs no more to what is desired.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        match self.placement {
            Placement::New | Placement::Open => false,
            Placement::Cordoned { .. } | Placement::Draining { .. } => {
                matches!(self.phase, NodePhase::Starting | NodePhase::Ready)
            }
        }
    }

    /// It belongs to what is desired, whether it has started or not.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.is_alive() && !self.is_leaving()
    }

    /// It takes traffic.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.phase == NodePhase::Ready && self.placement == Placement::Open && self.is_alive()
    }

    /// Nobody would notice if it ended.
    fn is_empty(&self) -> bool {
        match self.occupancy {
            Occupancy::Known { rooms, subscribers } => rooms <= 0 && subscribers <= 0,
            Occupancy::Unknown => false,
        }
    }
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("with rooms that it does not tell"),
            Self::Known { rooms, subscribers } => {
                write!(f, "with {rooms} rooms and {subscribers} subscribers")
            }
        }
    }
}
