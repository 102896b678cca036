//! Decides the next steps. Pure: what is decided depends on nothing but the pods that are there,
//! what should be, and the time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use contract::node_state::NodeState;

use super::{
    DeleteReason, Desired, HostState, LeaveReason, NodeAction, NodePhase, NodePod, Occupancy,
    Placement,
};

/// Most actions of one plan: a large cluster grows in steps.
const MAX_ACTIONS: usize = 50;
/// Revisions of pods that live at the same time: the desired one and an earlier one.
const MAX_REVISIONS: usize = 2;
/// A node is deleted as empty at the earliest this long after it was cordoned: by then it knows of
/// it, and so do the others, so that no room was sent there after it was asked.
const CORDON_SETTLES: Duration = Duration::from_secs(10);
/// What a draining node has beside the time that its rooms take by the rate of moving.
const DRAIN_SLACK: Duration = Duration::from_secs(120);
/// First wait before a pod that ended early is replaced; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest such wait.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// A pod that lived as long did not end early.
const LIVED: Duration = Duration::from_secs(600);

/// The next steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<NodeAction>,
    /// The port range has no room for a pod that is missing.
    pub slots_exhausted: bool,
}

/// Decides the next steps.
#[must_use]
pub fn plan(desired: &Desired<'_>, pods: &[NodePod]) -> Plan {
    let mut planner = Planner {
        desired,
        pods,
        staying: pods.iter().filter(|pod| pod.stays()).collect(),
        plan: Plan::default(),
    };
    planner.open();
    planner.flee();
    planner.fill();
    planner.scale_in();
    planner.replace();
    planner.advance();
    planner.bury();
    planner.plan.actions.truncate(MAX_ACTIONS);
    planner.plan
}

struct Planner<'a> {
    desired: &'a Desired<'a>,
    pods: &'a [NodePod],
    /// Pods that count, of which each step takes those that it sends away.
    staying: Vec<&'a NodePod>,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// A pod is told its addresses as soon as its Kubernetes node is known, and again when they
    /// change.
    fn open(&mut self) {
        let due = self.staying.iter().filter(|pod| {
            let told = pod.told_addresses == pod.addresses;
            !(told && pod.placement == Placement::Open)
        });
        self.plan.actions.extend(due.filter_map(|pod| open(pod, false)));
    }

    /// Pods on Kubernetes nodes that end within minutes leave at once, if there is another node
    /// that could take their rooms.
    fn flee(&mut self) {
        let flees = |pod: &NodePod| pod.host_state == HostState::Interrupted;
        let refuge = self.staying.iter().any(|pod| pod.serves() && !flees(pod));
        let (fleeing, staying): (Vec<&NodePod>, Vec<&NodePod>) =
            self.staying.iter().partition(|pod| flees(pod));
        if refuge {
            self.staying = staying;
            for pod in fleeing {
                self.leave(pod, LeaveReason::HostInterrupted, String::new());
            }
        }
    }

    /// Too few: first those that were about to leave come back, then new ones are made.
    fn fill(&mut self) {
        let nodes = usize::from(self.desired.nodes);
        let mut missing = nodes.saturating_sub(self.staying.len());
        let mut leaving: Vec<_> = self
            .pods
            .iter()
            .filter(|pod| pod.is_leaving() && pod.phase == NodePhase::Ready)
            .filter(|pod| pod.host_state == HostState::Up)
            .filter(|pod| pod.revision == self.desired.revision)
            .collect();
        // The fullest first: it has the most to lose.
        leaving.sort_by_key(|pod| Reverse((weight(pod), Reverse(pod.slot))));
        for pod in leaving.into_iter().take(missing) {
            if let Some(action) = open(pod, true) {
                self.plan.actions.push(action);
                self.staying.push(pod);
                missing -= 1;
            }
        }
        // What ended early is replaced one by one, each after its wait.
        let (waiting, due): (Vec<_>, Vec<_>) = self
            .pods
            .iter()
            .filter(|pod| pod.phase == NodePhase::Ended)
            .partition(|pod| self.desired.since_end(pod) < backoff(self.attempt_of(pod)));
        let missing = missing.saturating_sub(waiting.len());
        let attempts = due.iter().map(|pod| self.attempt_of(pod).saturating_add(1));
        let attempts: Vec<_> = attempts.chain(std::iter::repeat(0)).take(missing).collect();
        self.create(&attempts);
        if self.created() < missing {
            self.plan.slots_exhausted = true;
        }
    }

    /// Too many: the emptiest leave. While there are pods to replace, one more than desired is
    /// there on purpose.
    fn scale_in(&mut self) {
        let surge = usize::from(self.staying.iter().any(|pod| self.is_outdated(pod)));
        while self.staying.len() > usize::from(self.desired.nodes) + surge {
            let Some(pod) = self.next_to_leave(&self.staying) else { return };
            let because = self.because(pod);
            self.leave(pod, self.reason(pod, LeaveReason::ScaledIn), because);
        }
    }

    /// Pods of an earlier specification, and on cordoned Kubernetes nodes, are replaced one at a
    /// time: first comes the new one. If it does not come up, nothing else is touched.
    fn replace(&mut self) {
        let nodes = usize::from(self.desired.nodes);
        if self.staying.len() < nodes || self.created() > 0 {
            return;
        }
        let (outdated, current): (Vec<&NodePod>, Vec<&NodePod>) =
            self.staying.iter().partition(|pod| self.is_outdated(pod));
        let Some(last) = self.next_to_leave(&outdated) else { return };
        let is_starting = current.iter().any(|pod| !pod.serves());
        let reason = self.reason(last, LeaveReason::Replaced);
        if self.staying.len() > nodes {
            if !is_starting || !last.serves() {
                self.leave(last, reason, self.because(last));
            }
        } else if is_starting {
            // The one that starts decides whether the replacement goes on.
        } else if !last.serves() && last.is_empty() {
            // It serves nobody: in the place of a surge.
            self.leave(last, reason, self.because(last));
        } else if self.earlier_revisions() < MAX_REVISIONS {
            self.create(&[0]);
        }
    }

    /// Those that leave go on: empty ones are deleted, others drained when their time is up.
    fn advance(&mut self) {
        let refuge = self.staying.iter().any(|pod| pod.serves());
        for pod in self.pods.iter().filter(|pod| pod.is_leaving()) {
            if self.staying.iter().any(|staying| staying.uid == pod.uid) {
                continue;
            }
            let (since, reason, drains) = match pod.placement {
                Placement::Cordoned { since, reason } => (since, reason, false),
                Placement::Draining { since, reason } => (since, reason, true),
                Placement::New | Placement::Open => continue,
            };
            let passed = self.desired.since(since);
            let is_urgent = pod.host_state == HostState::Interrupted;
            let action = if pod.is_empty() && passed >= CORDON_SETTLES {
                delete(pod, DeleteReason::Left(reason))
            } else if drains && passed >= self.time_to_move(pod) {
                delete(pod, DeleteReason::TimedOut(reason))
            } else if !drains && refuge && (is_urgent || passed >= self.desired.drain_timeout) {
                let because = "its rooms did not end in time".to_owned();
                self.close(pod, self.draining(), reason, because)
            } else {
                continue;
            };
            self.plan.actions.push(action);
        }
    }

    /// Pods that ended go, those that are waited for stay to be counted.
    fn bury(&mut self) {
        let due = self.pods.iter().filter(|pod| {
            let is_waited_for = self.desired.since_end(pod) < backoff(self.attempt_of(pod));
            pod.phase == NodePhase::Ended && !is_waited_for
        });
        let deletions: Vec<_> = due.map(|pod| delete(pod, DeleteReason::Ended)).collect();
        self.plan.actions.extend(deletions);
    }

    /// Sends a pod away: nobody waits for one that never served, or serves no more.
    fn leave(&mut self, pod: &'a NodePod, reason: LeaveReason, because: String) {
        self.staying.retain(|staying| staying.uid != pod.uid);
        // What was decided about it before does not hold.
        self.plan.actions.retain(|action| !is_opening_of(action, pod));
        let action = if pod.phase == NodePhase::Starting && pod.is_empty() {
            delete(pod, DeleteReason::Left(reason))
        } else if reason == LeaveReason::HostInterrupted {
            self.close(pod, self.draining(), reason, because)
        } else {
            self.close(pod, NodeState::Cordoned, reason, because)
        };
        self.plan.actions.push(action);
    }

    fn close(
        &self,
        pod: &NodePod,
        state: NodeState,
        reason: LeaveReason,
        because: String,
    ) -> NodeAction {
        let (name, uid) = (pod.name.clone(), pod.uid.clone());
        NodeAction::Close { name, uid, state, since: self.desired.now, reason, because }
    }

    fn draining(&self) -> NodeState {
        NodeState::Draining { rooms_per_second: self.desired.rooms_per_second.max(1) }
    }

    /// Time in which a draining node must have moved its rooms.
    fn time_to_move(&self, pod: &NodePod) -> Duration {
        let rooms = match pod.occupancy {
            Occupancy::Known { rooms, subscribers: _ } => u64::try_from(rooms).unwrap_or_default(),
            Occupancy::Unknown => 0,
        };
        let rate = u64::from(self.desired.rooms_per_second.max(1));
        DRAIN_SLACK
            + Duration::from_secs(rooms.div_ceil(rate).min(self.desired.drain_timeout.as_secs()))
    }

    /// It must be replaced by another pod.
    fn is_outdated(&self, pod: &NodePod) -> bool {
        pod.revision != self.desired.revision || pod.host_state != HostState::Up
    }

    /// Why it leaves, where something speaks against it in particular.
    fn reason(&self, pod: &NodePod, otherwise: LeaveReason) -> LeaveReason {
        match pod.host_state {
            HostState::Interrupted => LeaveReason::HostInterrupted,
            HostState::Cordoned => LeaveReason::HostCordoned,
            HostState::Up | HostState::Lost if pod.revision != self.desired.revision => {
                LeaveReason::Replaced
            }
            HostState::Up | HostState::Lost => otherwise,
        }
    }

    /// Revisions other than the desired one that live pods have.
    fn earlier_revisions(&self) -> usize {
        let alive = self.pods.iter().filter(|pod| pod.stays() || pod.is_leaving());
        let revisions: BTreeSet<_> = alive.map(|pod| pod.revision.as_str()).collect();
        revisions.iter().filter(|revision| **revision != self.desired.revision).count()
    }

    /// Who leaves first: who is not ready, then earlier specifications, then those whose
    /// Kubernetes node leaves, then the emptiest, then the fullest zone, then the highest slot.
    fn next_to_leave(&self, among: &[&'a NodePod]) -> Option<&'a NodePod> {
        let mut zones: BTreeMap<&Option<String>, usize> = BTreeMap::new();
        for pod in &self.staying {
            *zones.entry(&pod.zone).or_default() += 1;
        }
        among.iter().copied().min_by_key(|pod| {
            let is_current = pod.revision == self.desired.revision;
            let in_zone = Reverse(zones.get(&pod.zone).copied().unwrap_or_default());
            let stays_up = pod.host_state == HostState::Up;
            (pod.serves(), is_current, stays_up, weight(pod), in_zone, Reverse(pod.slot))
        })
    }

    /// What spoke for a pod to leave, for the Event.
    fn because(&self, pod: &NodePod) -> String {
        let zone = pod.zone.as_deref().map(|zone| format!(" in zone {zone}")).unwrap_or_default();
        if !pod.serves() {
            format!("it is not ready{zone}")
        } else if pod.revision != self.desired.revision {
            format!("it is of an earlier specification, {}{zone}", pod.occupancy)
        } else if pod.host_state != HostState::Up {
            format!("its Kubernetes node takes no new pods, {}{zone}", pod.occupancy)
        } else {
            format!("it is the emptiest of {}, {}{zone}", self.staying.len(), pod.occupancy)
        }
    }

    /// How many pods ended early up to this one; one that lived long begins anew.
    fn attempt_of(&self, pod: &NodePod) -> u16 {
        let lived = match (pod.created, pod.ended) {
            (Some(created), Some(ended)) => {
                Duration::try_from(ended.duration_since(created)).unwrap_or_default()
            }
            _ => Duration::ZERO,
        };
        if lived >= LIVED { 0 } else { pod.attempt }
    }

    /// Creates pods in the lowest free slots. A slot is held until its pod is gone: two pods would
    /// want the same ports of a Kubernetes node.
    fn create(&mut self, attempts: &[u16]) {
        let taken: BTreeSet<u16> = self.pods.iter().filter_map(|pod| pod.slot).collect();
        let free = (0..self.desired.slots).filter(|slot| !taken.contains(slot));
        let creations = free.zip(attempts);
        self.plan.actions.extend(
            creations.map(|(slot, attempt)| NodeAction::Create { slot, attempt: *attempt }),
        );
    }

    fn created(&self) -> usize {
        let is_creation = |action: &&NodeAction| matches!(action, NodeAction::Create { .. });
        self.plan.actions.iter().filter(is_creation).count()
    }
}

impl Desired<'_> {
    /// Time since a pod ended; of one that did not say when, long enough.
    fn since_end(&self, pod: &NodePod) -> Duration {
        pod.ended.map_or(MAX_BACKOFF, |ended| self.since(ended))
    }
}

/// How long a pod that ended early stays before it is replaced; the first not at all.
fn backoff(attempt: u16) -> Duration {
    let Some(doublings) = attempt.checked_sub(1) else { return Duration::ZERO };
    FIRST_BACKOFF.saturating_mul(1 << doublings.min(10)).min(MAX_BACKOFF)
}

/// How much a pod carries: subscribers, then rooms; what is unknown weighs the most.
fn weight(pod: &NodePod) -> (i64, i64) {
    match pod.occupancy {
        Occupancy::Known { rooms, subscribers } => (subscribers, rooms),
        Occupancy::Unknown => (i64::MAX, i64::MAX),
    }
}

fn open(pod: &NodePod, again: bool) -> Option<NodeAction> {
    let addresses = pod.addresses.clone()?;
    let region = pod.region.clone().unwrap_or_default();
    let (name, uid) = (pod.name.clone(), pod.uid.clone());
    Some(NodeAction::Open { name, uid, addresses, region, again })
}

fn is_opening_of(action: &NodeAction, pod: &NodePod) -> bool {
    match action {
        NodeAction::Open { uid, .. } => *uid == pod.uid,
        NodeAction::Create { .. } | NodeAction::Close { .. } | NodeAction::Delete { .. } => false,
    }
}

fn delete(pod: &NodePod, reason: DeleteReason) -> NodeAction {
    NodeAction::Delete { name: pod.name.clone(), uid: pod.uid.clone(), reason }
}

#[cfg(test)]
mod tests;
