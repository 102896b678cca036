//! Media pods: what there is, what should be, and the actions that lead from one to the other.
//!
//! [`plan`] is pure. It holds at any moment: what it decides depends on nothing but the pods that
//! are there, so an operator that starts anew goes on where the last one ended.

use std::collections::{BTreeMap, BTreeSet};

use crds::names;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use kube::runtime::reflector::{ObjectRef, Store};

use super::validate::ValidCluster;

mod carry_out;

pub use carry_out::{CarriedOut, Refusal, carry_out};

/// Most actions of one plan: a large cluster grows in steps.
const MAX_ACTIONS: usize = 50;

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
    /// How far it is.
    pub phase: NodePhase,
    /// The Kubernetes node it runs on.
    pub host: Option<String>,
    /// Its address in the pod network.
    pub ip: Option<String>,
    /// Addresses of the Kubernetes node, best first, separated by commas.
    pub host_addresses: Option<String>,
    /// The addresses that the pod was told.
    pub told_addresses: Option<String>,
    /// It may take traffic.
    pub open: bool,
    /// Why it does not start, in Kubernetes's words.
    pub trouble: Option<Trouble>,
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

impl NodePod {
    fn is_alive(&self) -> bool {
        match self.phase {
            NodePhase::Starting | NodePhase::Ready => true,
            NodePhase::Ended | NodePhase::Terminating => false,
        }
    }

    /// It takes traffic.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.phase == NodePhase::Ready && self.open
    }
}

/// What should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired<'a> {
    /// Media nodes.
    pub nodes: u16,
    /// Slots that the port range has room for.
    pub slots: u16,
    /// Hash of what pods are made from.
    pub revision: &'a str,
}

impl<'a> Desired<'a> {
    /// What a valid cluster wants.
    #[must_use]
    pub fn of(valid: &ValidCluster, revision: &'a str) -> Self {
        Self { nodes: valid.spec.nodes, slots: valid.slots, revision }
    }
}

/// Why a pod is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// It ended.
    Ended,
    /// It is of an earlier specification.
    Replaced,
    /// There are more than desired.
    ScaledIn,
}

impl DeleteReason {
    /// The reason of the Event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "NodeEnded",
            Self::Replaced => "NodeReplaced",
            Self::ScaledIn => "NodeScaledIn",
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
    },
    /// Tell a pod its addresses, and let it take traffic.
    Open {
        /// Name of the pod.
        name: String,
        /// The addresses, separated by commas.
        addresses: String,
    },
    /// Delete a pod.
    Delete {
        /// Name of the pod.
        name: String,
        /// Its unique id: never its successor.
        uid: String,
        /// Why.
        reason: DeleteReason,
    },
}

/// The next steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<NodeAction>,
    /// The port range has no room for a pod that should be made.
    pub slots_exhausted: bool,
}

/// Decides the next steps.
#[must_use]
pub fn plan(desired: &Desired<'_>, pods: &[NodePod]) -> Plan {
    let mut plan = Plan::default();
    plan.actions.extend(
        pods.iter()
            .filter(|pod| pod.phase == NodePhase::Ended)
            .map(|pod| delete(pod, DeleteReason::Ended)),
    );
    plan.actions.extend(pods.iter().filter_map(open));
    let alive: Vec<_> = pods.iter().filter(|pod| pod.is_alive()).collect();
    let (current, old): (Vec<&NodePod>, Vec<&NodePod>) =
        alive.iter().partition(|pod| pod.revision == desired.revision);
    let nodes = usize::from(desired.nodes);
    let starting = current.iter().any(|pod| !pod.serves());
    if alive.len() < nodes {
        create(&mut plan, desired, pods, nodes - alive.len());
    } else if alive.len() > nodes + 1 || (alive.len() > nodes && old.is_empty()) {
        let keep = if old.is_empty() { nodes } else { nodes + 1 };
        let excess = alive.len() - keep;
        let leaving = scale_in_order(desired, alive).into_iter().take(excess);
        plan.actions.extend(leaving.map(|pod| delete(pod, DeleteReason::ScaledIn)));
    } else if let Some(last) = scale_in_order(desired, old).first() {
        // One at a time: a new pod that does not come up stops the replacement.
        if alive.len() > nodes {
            if !starting || !last.serves() {
                plan.actions.push(delete(last, DeleteReason::Replaced));
            }
        } else if !last.serves() && !starting {
            // It serves nobody: in the place of a surge.
            plan.actions.push(delete(last, DeleteReason::Replaced));
        } else if !starting {
            create(&mut plan, desired, pods, 1);
        }
    }
    plan.actions.truncate(MAX_ACTIONS);
    plan
}

/// A pod is told its addresses as soon as its Kubernetes node is known, and again when they change.
fn open(pod: &NodePod) -> Option<NodeAction> {
    let addresses = pod.host_addresses.as_ref()?;
    let told = pod.told_addresses.as_ref() == Some(addresses);
    let due = pod.is_alive() && !(told && pod.open);
    due.then(|| NodeAction::Open { name: pod.name.clone(), addresses: addresses.clone() })
}

fn delete(pod: &NodePod, reason: DeleteReason) -> NodeAction {
    NodeAction::Delete { name: pod.name.clone(), uid: pod.uid.clone(), reason }
}

/// Creates pods in the lowest free slots. A slot is held until its pod is gone: two pods would
/// want the same ports of a Kubernetes node.
fn create(plan: &mut Plan, desired: &Desired<'_>, pods: &[NodePod], count: usize) {
    let taken: BTreeSet<u16> = pods.iter().filter_map(|pod| pod.slot).collect();
    let free = (0..desired.slots).filter(|slot| !taken.contains(slot)).take(count);
    let before = plan.actions.len();
    plan.actions.extend(free.map(|slot| NodeAction::Create { slot }));
    plan.slots_exhausted = plan.actions.len() - before < count;
}

/// Who leaves first: who serves nobody, then the earlier specification, then the highest slot.
fn scale_in_order<'a>(desired: &Desired<'_>, mut pods: Vec<&'a NodePod>) -> Vec<&'a NodePod> {
    pods.sort_by_key(|pod| {
        (pod.serves(), pod.revision == desired.revision, std::cmp::Reverse(pod.slot))
    });
    pods
}

/// Reads the pods of a cluster.
#[must_use]
pub fn observe(pods: &[Pod], hosts: &Store<Node>) -> Vec<NodePod> {
    let mut pods: Vec<_> = pods
        .iter()
        .map(|pod| {
            let host = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let node = host.as_ref().and_then(|name| hosts.get(&ObjectRef::new(name)));
            let addresses = node.as_ref().and_then(|node| addresses_of(node));
            observe_pod(pod, host, addresses)
        })
        .collect();
    pods.sort_by_key(|pod| pod.slot);
    pods
}

fn observe_pod(pod: &Pod, host: Option<String>, host_addresses: Option<String>) -> NodePod {
    let annotation = |name: &str| pod.annotations().get(name).cloned();
    let labels = pod.labels();
    let status = pod.status.as_ref();
    let ready = status.and_then(|s| s.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    });
    let phase = match status.and_then(|s| s.phase.as_deref()) {
        _ if pod.metadata.deletion_timestamp.is_some() => NodePhase::Terminating,
        Some("Failed" | "Succeeded") => NodePhase::Ended,
        _ if ready => NodePhase::Ready,
        _ => NodePhase::Starting,
    };
    NodePod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        slot: labels.get(names::SLOT).and_then(|slot| slot.parse().ok()),
        revision: annotation(names::REVISION).unwrap_or_default(),
        phase,
        host,
        ip: status.and_then(|s| s.pod_ip.clone()),
        host_addresses,
        told_addresses: annotation(names::ADVERTISE_ADDRESSES),
        open: labels.get(names::PLACEMENT).is_some_and(|value| value == names::OPEN),
        trouble: trouble(pod),
    }
}

/// Kubernetes's word for why a pod does not start; `None` for what every start goes through.
fn trouble(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    let waiting = containers.flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.clone()?;
        let usual = ["ContainerCreating", "PodInitializing"].contains(&reason.as_str());
        let message = waiting.message.clone().unwrap_or_default();
        (!usual).then_some(Trouble { reason, message })
    });
    waiting.or_else(|| {
        let scheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled")?;
        (scheduled.status == "False").then(|| Trouble {
            reason: scheduled.reason.clone().unwrap_or_default(),
            message: scheduled.message.clone().unwrap_or_default(),
        })
    })
}

/// External addresses of a Kubernetes node, else its internal ones; both families.
fn addresses_of(node: &Node) -> Option<String> {
    let mut by_kind: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for address in node.status.as_ref()?.addresses.iter().flatten() {
        by_kind.entry(&address.type_).or_default().push(&address.address);
    }
    ["ExternalIP", "InternalIP"].iter().find_map(|kind| Some(by_kind.get(kind)?.join(",")))
}

#[cfg(test)]
mod tests;
