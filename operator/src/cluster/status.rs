//! Last step: reports what was found.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crds::status::{MAX_MEMBERS, Member, MemberState, condition};
use crds::{LiveCluster, LiveClusterStatus, names};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::json;
use tokio::net::TcpStream;

use super::ReconcileError;
use super::autoscaling::{self, Scaling};
use super::build::{ForeignKind, turn};
use super::conditions::{self, Finding, Truth};
use super::dereference::Dereferenced;
use super::nodes::{CarriedOut, NodePhase, NodePod, Placement, Plan};
use super::poll::{Counts, Reading};
use super::validate::{Invalid, ValidCluster, ValidRedis};
use crate::controller::Context;
use crds::live_cluster::Exposure;

/// Time in which Redis must take a connection.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);

/// Versions that are told: a rollout has two, and nobody reads a list of those that somebody else
/// wrote into pods.
const MAX_VERSIONS: usize = 4;

/// Everything that the status is made from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The cluster.
    pub valid: &'a ValidCluster,
    /// What was read.
    pub found: &'a Dereferenced,
    /// Hash of what pods should be made from.
    pub revision: &'a str,
    /// The media pods before the plan was carried out.
    pub pods: &'a [NodePod],
    /// The plan.
    pub plan: &'a Plan,
    /// What became of it.
    pub done: &'a CarriedOut,
    /// Counts by the pods' unique ids.
    pub readings: &'a HashMap<String, Reading>,
    /// Redis takes connections.
    pub redis_reachable: bool,
    /// What autoscaling came to.
    pub scaling: Option<&'a Scaling>,
    /// Kinds that are wanted and that the Kubernetes cluster does not have.
    pub missing: &'a BTreeSet<ForeignKind>,
}

/// Whether Redis takes connections: the managed one says so itself, another is dialled.
pub async fn redis_reachable(valid: &ValidCluster, found: &Dereferenced) -> bool {
    match &valid.redis {
        ValidRedis::Managed { .. } => {
            let status = found.redis_set.as_ref().and_then(|set| set.status.as_ref());
            status.and_then(|status| status.ready_replicas).unwrap_or_default() > 0
        }
        ValidRedis::External(external) => {
            let Some(address) = external.addresses.first() else { return false };
            let dialled = tokio::time::timeout(REDIS_TIMEOUT, TcpStream::connect(address)).await;
            matches!(dialled, Ok(Ok(_)))
        }
    }
}

/// Writes the status when it differs; says whether the cluster has come to rest.
pub async fn update(
    cluster: &Arc<LiveCluster>,
    context: &Context,
    view: &View<'_>,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    let status = status_of(cluster, view, now);
    let settled = status
        .conditions
        .iter()
        .any(|c| c.type_ == condition::PROGRESSING && c.status == Truth::False.as_str());
    write(cluster, context, status).await?;
    Ok(settled)
}

/// Reports that the spec cannot be acted upon.
pub async fn update_invalid(
    cluster: &Arc<LiveCluster>,
    context: &Context,
    invalid: &Invalid,
) -> Result<(), ReconcileError> {
    update_stuck(cluster, context, invalid.reason(), invalid.to_string()).await
}

/// Reports that a person must change something; what is there goes on, and stays counted.
pub async fn update_stuck(
    cluster: &Arc<LiveCluster>,
    context: &Context,
    reason: &str,
    message: String,
) -> Result<(), ReconcileError> {
    let mut status = cluster.status.clone().unwrap_or_default();
    let mut findings = vec![
        Finding::new(condition::READY, false, reason, message.clone()),
        Finding::new(condition::PROGRESSING, false, reason, message.clone()),
        Finding::new(condition::DEGRADED, true, reason, message),
    ];
    if status.ready_nodes == 0 {
        findings.push(Finding::new(condition::AVAILABLE, false, reason, "no node takes traffic"));
    }
    let generation = cluster.meta().generation;
    let merged = conditions::merge(&status.conditions, findings, generation, Timestamp::now());
    status.conditions.retain(|old| merged.iter().all(|new| new.type_ != old.type_));
    status.conditions.extend(merged);
    status.observed_generation = generation;
    write(cluster, context, status).await
}

/// Whether `Degraded` gives this reason already: an Event is for what is new.
#[must_use]
pub fn is_told(cluster: &LiveCluster, reason: &str) -> bool {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| {
        c.type_ == condition::DEGRADED && c.status == Truth::True.as_str() && c.reason == reason
    })
}

async fn write(
    cluster: &Arc<LiveCluster>,
    context: &Context,
    status: LiveClusterStatus,
) -> Result<(), ReconcileError> {
    if cluster.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<LiveCluster> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": LiveCluster::api_version(&()),
        "kind": LiveCluster::kind(&()),
        // Of this very object, never of one that took its name.
        "metadata": {"uid": cluster.uid()},
        "status": status,
    });
    let params = PatchParams::apply(names::MANAGER).force();
    match api.patch_status(&cluster.name_any(), &params, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(()),
        // Deleted meanwhile.
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(ReconcileError::Status(Box::new(error))),
    }
}

/// The status that a view amounts to.
#[must_use]
pub fn status_of(cluster: &LiveCluster, view: &View<'_>, now: Timestamp) -> LiveClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let staying = view.pods.iter().filter(|pod| pod.stays()).count();
    let members: Vec<_> = view.pods.iter().map(|pod| member(pod, view, &old)).collect();
    let generation = cluster.meta().generation;
    LiveClusterStatus {
        observed_generation: generation,
        url: Some(view.valid.url()),
        nodes: as_i32(staying.min(usize::from(view.valid.spec.nodes))),
        ready_nodes: as_i32(view.pods.iter().filter(|pod| pod.serves()).count()),
        draining_nodes: as_i32(view.pods.iter().filter(|pod| pod.is_leaving()).count()),
        version: version(view.pods),
        rooms: members.iter().map(|member| member.rooms).sum(),
        participants: members.iter().map(|member| member.participants).sum(),
        subscribers: members.iter().map(|member| member.subscribers).sum(),
        autoscaling: view.scaling.map(Scaling::status),
        selector: Some(names::open_node_selector(&view.valid.name)),
        conditions: conditions::merge(&old.conditions, findings(view), generation, now),
        members: members.into_iter().take(MAX_MEMBERS).collect(),
    }
}

/// The versions of the nodes that live; a plan never has more than two specifications at a time.
fn version(pods: &[NodePod]) -> Option<String> {
    let versions = pods.iter().filter(|pod| is_alive(pod)).filter_map(|pod| pod.version.as_deref());
    let versions: Vec<_> =
        versions.collect::<BTreeSet<_>>().into_iter().take(MAX_VERSIONS).collect();
    (!versions.is_empty()).then(|| versions.join(","))
}

fn is_alive(pod: &NodePod) -> bool {
    matches!(pod.phase, NodePhase::Starting | NodePhase::Ready)
}

fn as_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A node that never answered this operator keeps the counts that the last one reported.
fn member(pod: &NodePod, view: &View<'_>, old: &LiveClusterStatus) -> Member {
    let before = old.members.iter().find(|member| member.name == pod.name);
    let before = before.map(|member| Counts {
        rooms: member.rooms,
        participants: member.participants,
        subscribers: member.subscribers,
    });
    let counts = match pod.phase {
        NodePhase::Ended => Counts::default(),
        NodePhase::Starting if pod.ip.is_none() => Counts::default(),
        NodePhase::Starting | NodePhase::Ready | NodePhase::Terminating => {
            view.readings.get(&pod.uid).map(|r| r.counts).or(before).unwrap_or_default()
        }
    };
    let addresses = pod.told_addresses.as_deref().unwrap_or_default();
    Member {
        name: pod.name.clone(),
        slot: pod.slot.unwrap_or_default(),
        state: state(pod),
        host: pod.host.clone(),
        addresses: addresses.split(',').filter(|a| !a.is_empty()).map(str::to_owned).collect(),
        rooms: counts.rooms,
        participants: counts.participants,
        subscribers: counts.subscribers,
    }
}

fn state(pod: &NodePod) -> MemberState {
    match (pod.phase, pod.placement) {
        (NodePhase::Ended | NodePhase::Terminating, _) => MemberState::Terminating,
        (_, Placement::Cordoned { .. }) => MemberState::Cordoned,
        (_, Placement::Draining { .. }) => MemberState::Draining,
        (NodePhase::Ready, Placement::Open) => MemberState::Open,
        (NodePhase::Ready | NodePhase::Starting, _) => MemberState::Starting,
    }
}

/// The conditions that a view amounts to.
fn findings(view: &View<'_>) -> Vec<Finding> {
    let desired = usize::from(view.valid.spec.nodes);
    let serving = view.pods.iter().filter(|pod| pod.serves()).count();
    let settled = view.done.changes == 0
        && view.done.refusal.is_none()
        && serving == desired
        && view.pods.len() == desired
        && view.pods.iter().all(|pod| pod.revision == view.revision);
    let progress = format!("{serving} of {desired} nodes take traffic");
    let trouble = trouble(view);
    let mut findings = vec![ready(view, serving, desired, &progress, trouble.as_ref())];
    let reason = if serving > 0 { "NodesOpen" } else { "NoNodeOpen" };
    findings.push(Finding::new(condition::AVAILABLE, serving > 0, reason, progress.clone()));
    let leaving = view.pods.iter().filter(|pod| pod.is_leaving()).count();
    let outdated = view.pods.iter().any(|pod| pod.stays() && pod.revision != view.revision);
    let reason = match (settled, serving < desired, outdated || leaving == 0) {
        (true, _, _) => "Settled",
        (false, true, _) => "NodesStarting",
        (false, false, true) => "NodesReplaced",
        (false, false, false) => "NodesLeaving",
    };
    findings.push(Finding::new(condition::PROGRESSING, !settled, reason, progress));
    findings.push(match trouble {
        Some((reason, message)) => Finding::new(condition::DEGRADED, true, reason, message),
        None => Finding::new(condition::DEGRADED, false, "AsExpected", ""),
    });
    let reason = if leaving > 0 { "NodesLeaving" } else { "NoNodeLeaves" };
    let message = format!("{leaving} nodes take no new rooms and leave when they are empty");
    findings.push(Finding::new(condition::DRAINING, leaving > 0, reason, message));
    findings.extend(surroundings(view));
    findings.extend(turn(view));
    let mode = view.valid.spec.autoscaling.mode;
    findings.extend(autoscaling::findings(mode, view.scaling, &view.found.metrics_api));
    findings
}

fn ready(
    view: &View<'_>,
    serving: usize,
    desired: usize,
    progress: &str,
    trouble: Option<&(String, String)>,
) -> Finding {
    let current =
        view.pods.iter().filter(|pod| pod.serves() && pod.revision == view.revision).count();
    let (holds, reason) = if let Some((reason, _)) = trouble {
        (false, reason.clone())
    } else if !view.redis_reachable {
        (false, "RedisUnreachable".to_owned())
    } else if current >= desired && serving == current {
        (true, "Ready".to_owned())
    } else if serving < desired {
        (false, "NodesStarting".to_owned())
    } else {
        (false, "NodesReplaced".to_owned())
    };
    Finding::new(condition::READY, holds, reason, progress)
}

/// What needs a person: reason and message.
fn trouble(view: &View<'_>) -> Option<(String, String)> {
    if let Some(refusal) = &view.done.refusal {
        return Some((refusal.reason().to_owned(), refusal.message(&view.valid.namespace)));
    }
    if view.missing.contains(&ForeignKind::HTTPRoute) {
        let message = "spec.gateway wants HTTPRoute, which the Kubernetes cluster does not have";
        return Some(("GatewayKindMissing".to_owned(), message.to_owned()));
    }
    if view.plan.slots_exhausted {
        let count = view.valid.spec.media.ports.count;
        let message = format!(
            "spec.media.ports.count is {count}, room for {} nodes, those that end included",
            view.valid.slots
        );
        return Some(("SlotsExhausted".to_owned(), message));
    }
    // The first pod that ends is replaced at once, and no trouble.
    let tells =
        |pod: &&NodePod| is_alive(pod) || (pod.phase == NodePhase::Ended && pod.attempt > 0);
    view.pods.iter().filter(tells).find_map(|pod| {
        let trouble = pod.trouble.as_ref()?;
        let reason = if trouble.reason.is_empty() { "NodeFailing" } else { &trouble.reason };
        Some((reason.to_owned(), format!("{}: {}", pod.name, trouble.message)))
    })
}

/// The sidecars of the pods that are there; `None` where there shall be none.
fn turn(view: &View<'_>) -> Option<Finding> {
    view.valid.turn.as_ref()?;
    let pods = view.found.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let running = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| &status.init_container_statuses);
        let mut sidecars = statuses.flatten().filter(|status| status.name == turn::CONTAINER);
        sidecars.any(|status| status.started == Some(true))
    };
    let (all, running) = (pods.clone().count(), pods.filter(|pod| running(pod)).count());
    let routes = [ForeignKind::IngressRouteTCP, ForeignKind::TLSRoute];
    if let Some(kind) = routes.into_iter().find(|kind| view.missing.contains(kind)) {
        let kind = kind.as_str();
        let message =
            format!("spec.turn.tls.route wants {kind}, which the Kubernetes cluster does not have");
        return Some(Finding::new(condition::TURN_READY, false, "RouteKindMissing", message));
    }
    let (truth, reason) = match (all, running) {
        (0, _) => (Truth::Unknown, "NodesStarting"),
        (all, running) if all == running => (Truth::True, "Running"),
        (_, _) => (Truth::False, "NotRunning"),
    };
    let message = format!("the TURN servers of {running} of {all} nodes run");
    Some(Finding::new(condition::TURN_READY, truth, reason, message))
}

/// Redis, addresses, TLS.
fn surroundings(view: &View<'_>) -> [Finding; 3] {
    let redis = if view.redis_reachable { "Connected" } else { "NoAnswer" };
    let alive: Vec<_> = view.pods.iter().filter(|pod| is_alive(pod)).collect();
    let told = alive.iter().filter(|pod| pod.told_addresses.is_some()).count();
    let discovered = match (alive.len(), told) {
        (0, _) => Truth::Unknown,
        (alive, told) => Truth::from(alive == told),
    };
    let waits = view.valid.spec.media.exposure == Exposure::LoadBalancer
        && alive.iter().any(|pod| pod.host.is_some() && pod.addresses.is_none());
    let reason = match discovered {
        Truth::True => "NodeAddresses",
        Truth::False | Truth::Unknown if waits => "LoadBalancerPending",
        Truth::False | Truth::Unknown => "NodesStarting",
    };
    let message = format!("{told} of {} nodes know their addresses", alive.len());
    [
        Finding::new(condition::REDIS_REACHABLE, view.redis_reachable, redis, ""),
        Finding::new(condition::ADDRESSES_DISCOVERED, discovered, reason, message),
        tls(view),
    ]
}

/// Whether browsers find https at the domain.
fn tls(view: &View<'_>) -> Finding {
    let spec = &view.valid.spec;
    let (holds, reason, message) = match (&spec.gateway, &spec.ingress.tls) {
        (Some(gateway), _) if gateway.tls => (true, "Gateway", ""),
        (None, Some(tls)) if tls.issuer_ref.is_none() => (true, "SecretGiven", ""),
        (None, Some(_)) if view.missing.contains(&ForeignKind::Certificate) => (
            false,
            "CertificateKindMissing",
            "spec.ingress.tls.issuerRef wants cert-manager, which the Kubernetes cluster does not have",
        ),
        (None, Some(_)) => (true, "Issuer", ""),
        (Some(_), _) | (None, None) => (
            false,
            "NoSecret",
            "spec.ingress.tls is absent: browsers give camera and microphone over https only, *.localhost apart",
        ),
    };
    Finding::new(condition::TLS_CONFIGURED, holds, reason, message)
}

#[cfg(test)]
mod tests;
