//! How many media nodes there are, by what they do: either a HorizontalPodAutoscaler decides, which
//! asks the [metrics API](crate::metrics_api), or the operator itself ([`scaler`]). Both write
//! `spec.nodes` by the scale subresource.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crds::live_cluster::AutoscalingMode;
use crds::status::{ActiveScaler, AutoscalingStatus, condition};
use crds::{LiveCluster, names};
use kube::api::{Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tracing::info;

use super::apply::ApplyError;
use super::conditions::{Finding, Truth};
use super::dereference::Dereferenced;
use super::events;
use super::validate::ValidCluster;
use crate::controller::Context;
use crate::metrics_api::Registration;

pub mod demand;
pub mod scaler;

use demand::Demand;
use scaler::{Decision, History};

/// Most LiveClusters whose past is remembered; beyond that all are forgotten, and none scales in
/// for the length of its window.
const MAX_REMEMBERED: usize = 10_000;

/// Who sets `spec.nodes`, as far as the operator is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaler {
    /// A person, or a scaler that is not ours.
    None,
    /// The HorizontalPodAutoscaler that the operator makes.
    Hpa,
    /// The operator.
    BuiltIn,
}

impl Scaler {
    /// Who it is by what is wanted and what can be had.
    #[must_use]
    pub fn of(mode: AutoscalingMode, registration: &Registration) -> Self {
        match (mode, registration) {
            (AutoscalingMode::None, _) => Self::None,
            (AutoscalingMode::BuiltIn, _)
            | (AutoscalingMode::Hpa, Registration::Off | Registration::Foreign { .. }) => {
                Self::BuiltIn
            }
            // What does not answer for a while freezes the HorizontalPodAutoscaler, no more.
            (AutoscalingMode::Hpa, Registration::Unknown | Registration::Ours { .. }) => Self::Hpa,
        }
    }
}

/// What the scalers of all LiveClusters remember.
#[derive(Debug, Default)]
pub struct Histories {
    all: Mutex<HashMap<ObjectRef<LiveCluster>, History>>,
}

impl Histories {
    fn with<T>(&self, cluster: &LiveCluster, f: impl FnOnce(&mut History) -> T) -> T {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let reference = ObjectRef::from_obj(cluster);
        if all.len() >= MAX_REMEMBERED && !all.contains_key(&reference) {
            all.clear();
        }
        f(all.entry(reference).or_default())
    }

    /// A LiveCluster is gone, or nobody scales it.
    pub fn forget(&self, cluster: &LiveCluster) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&ObjectRef::from_obj(cluster));
    }
}

/// What autoscaling came to in a reconcile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaling {
    /// Who sets `spec.nodes`.
    pub scaler: ActiveScaler,
    /// What the nodes' answers ask for.
    pub decision: Decision,
    /// Who applies manifests with `spec.nodes` all the same.
    pub rival: Option<String>,
}

impl Scaling {
    /// What the status tells of it.
    #[must_use]
    pub fn status(&self) -> AutoscalingStatus {
        AutoscalingStatus {
            scaler: self.scaler,
            needed_nodes: self.decision.needed,
            reason: self.decision.need.map(|need| need.to_string()).unwrap_or_default(),
        }
    }
}

/// Looks at what the nodes do and, where that is the operator's to do, sets `spec.nodes`.
///
/// `None` where nobody scales.
pub async fn scale(
    found: &Dereferenced,
    valid: &ValidCluster,
    demand: &Demand,
    context: &Context,
) -> Result<Option<Scaling>, ApplyError> {
    let cluster = &found.cluster;
    let scaler = match valid.scaler {
        Scaler::None => {
            context.histories.forget(cluster);
            return Ok(None);
        }
        Scaler::Hpa => ActiveScaler::Hpa,
        Scaler::BuiltIn => ActiveScaler::BuiltIn,
    };
    tell_what_is_missing(found, valid, context).await;
    let (current, now) = (valid.spec.nodes, Instant::now());
    let decision = context
        .histories
        .with(cluster, |history| history.decide(&valid.policy, demand, current, now));
    if scaler == ActiveScaler::BuiltIn
        && decision.nodes != current
        && set_nodes(cluster, context, decision.nodes).await?
    {
        context.histories.with(cluster, |history| history.changed(current, decision.nodes, now));
        let (namespace, name) = (&valid.namespace, &valid.name);
        info!(%namespace, %name, from = current, to = decision.nodes, "Number of nodes changed");
        events::scaled(context, cluster, current, &decision).await;
    }
    Ok(Some(Scaling { scaler, decision, rival: rival(cluster) }))
}

/// Somebody asked for a HorizontalPodAutoscaler that cannot be had: says so once.
async fn tell_what_is_missing(found: &Dereferenced, valid: &ValidCluster, context: &Context) {
    if valid.spec.autoscaling.mode != AutoscalingMode::Hpa || valid.scaler != Scaler::BuiltIn {
        return;
    }
    let finding = found.metrics_api.finding(condition::METRICS_API_AVAILABLE);
    let conditions = found.cluster.status.iter().flat_map(|status| &status.conditions);
    let told =
        conditions.into_iter().any(|c| c.type_ == finding.kind && c.reason == finding.reason);
    if !told {
        events::metrics_api_missing(context, &found.cluster, &finding).await;
    }
}

/// Who applies manifests in which `spec.nodes` is: a tool that does so continually works against
/// the scaler. Only who applies on the server's side says what it holds on to.
fn rival(cluster: &LiveCluster) -> Option<String> {
    let entry = cluster.managed_fields().iter().find(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let holds = fields.is_some_and(|fields| fields.pointer("/f:spec/f:nodes").is_some());
        entry.operation.as_deref() == Some("Apply") && entry.subresource.is_none() && holds
    })?;
    entry.manager.clone()
}

/// Writes `spec.nodes` as the HorizontalPodAutoscaler would; the change starts a new reconcile.
/// Says whether it was written: not where the LiveCluster has changed since it was read.
async fn set_nodes(
    cluster: &Arc<LiveCluster>,
    context: &Context,
    nodes: u16,
) -> Result<bool, ApplyError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<LiveCluster> = Api::namespaced(context.client.clone(), &namespace);
    let name = cluster.name_any();
    let patch = json!({
        "metadata": {"resourceVersion": cluster.resource_version()},
        "spec": {"replicas": nodes},
    });
    let params =
        PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch_scale(&name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => Ok(false),
        Err(error) => Err(ApplyError::new("Scale", &name, error)),
    }
}

/// The conditions that are about autoscaling; none where nobody asked for it.
#[must_use]
pub fn findings(
    mode: AutoscalingMode,
    scaling: Option<&Scaling>,
    registration: &Registration,
) -> Vec<Finding> {
    let Some(Scaling { scaler, decision, rival }) = scaling else { return Vec::new() };
    let answers = registration.finding(condition::METRICS_API_AVAILABLE);
    let reaches = *scaler == ActiveScaler::BuiltIn || answers.truth == Truth::True;
    let mut need = decision.need.map(|need| need.to_string()).unwrap_or_default();
    if let Some(rival) = rival {
        let warning = "applies spec.nodes, too, and sets it back each time: leave it out there";
        need = format!("{rival} {warning}; {need}");
    }
    let active = match (decision.silent, reaches) {
        (false, true) => {
            let reason = match scaler {
                _ if rival.is_some() => "NodesAppliedByOther",
                ActiveScaler::Hpa => "HorizontalPodAutoscaler",
                ActiveScaler::BuiltIn => "BuiltIn",
            };
            Finding::new(condition::AUTOSCALING_ACTIVE, true, reason, need)
        }
        (true, true) => {
            let message =
                format!("not every node tells what it does; no node is sent away: {need}");
            Finding::new(condition::AUTOSCALING_ACTIVE, false, "NodesSilent", message)
        }
        (_, false) => {
            let message =
                format!("the HorizontalPodAutoscaler gets no figures: {}", answers.message);
            Finding::new(condition::AUTOSCALING_ACTIVE, false, "MetricsAPIUnavailable", message)
        }
    };
    match mode {
        AutoscalingMode::Hpa => vec![active, answers],
        AutoscalingMode::None | AutoscalingMode::BuiltIn => vec![active],
    }
}

#[cfg(test)]
mod tests;
