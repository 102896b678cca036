//! The reconcile of one LiveCluster.

use std::sync::Arc;
use std::time::Duration;

use crds::LiveCluster;
use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use thiserror::Error;
use tracing::info;

use crate::controller::Context;
use crate::metrics::Outcome;

pub mod apply;
pub mod authority;
pub mod autoscaling;
pub mod build;
pub mod conditions;
pub mod dereference;
pub mod events;
pub mod material;
pub mod nodes;
pub mod occupancy;
pub mod poll;
pub mod status;
pub mod validate;

use autoscaling::demand::Demand;

/// Time to the next reconcile when nothing happens: counts of rooms, Secrets of users and the end
/// of certificates are looked at in every one.
const PERIOD: Duration = Duration::from_secs(10);
/// The same while nodes start or leave.
const PERIOD_OF_CHANGE: Duration = Duration::from_secs(3);

/// How a reconcile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// For the metrics.
    pub outcome: Outcome,
    /// Time to the next one.
    pub again_in: Duration,
}

/// Why a reconcile failed; it is tried again.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// What the spec names could not be read.
    #[error("failed to read what the LiveCluster names")]
    Dereference(#[from] dereference::DereferenceError),
    /// Keys or certificates could not be made.
    #[error("failed to make keys or certificates")]
    Material(#[from] material::MaterialError),
    /// The objects could not be built.
    #[error("failed to build objects")]
    Build(#[from] build::BuildError),
    /// The objects could not be written.
    #[error("failed to apply objects")]
    Apply(#[from] apply::ApplyError),
    /// The status could not be written.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
}

/// Makes the cluster what a LiveCluster says, as far as it goes at once.
pub async fn reconcile(
    cluster: &Arc<LiveCluster>,
    context: &Context,
) -> Result<Report, ReconcileError> {
    if cluster.meta().deletion_timestamp.is_some() {
        // Owner references take everything along.
        context.histories.forget(cluster);
        return Ok(Report { outcome: Outcome::Done, again_in: PERIOD });
    }
    let found = dereference::dereference(cluster, context).await?;
    let valid = match validate::validate(&found, &context.images) {
        Ok(valid) => valid,
        Err(invalid) => {
            events::invalid(context, cluster, &invalid).await;
            status::update_invalid(cluster, context, &invalid).await?;
            return Ok(Report { outcome: Outcome::Invalid, again_in: PERIOD });
        }
    };
    let now = Timestamp::now();
    let material = material::complete(&valid, &found, now)?;
    let resources = build::build(&valid, &material)?;
    let applied = apply::apply(resources, cluster, context).await?;
    let mut pods = nodes::observe(&found.pods, &context.hosts);
    let readings = context.poller.poll(&pods).await;
    nodes::count(&mut pods, &readings);
    let demand = Demand::of(&pods, &readings, valid.workers);
    let scaling = autoscaling::scale(&found, &valid, &demand, context).await?;
    let plan = nodes::plan(&nodes::Desired::of(&valid, &applied.revision, now), &pods);
    let done = nodes::carry_out(&plan, &applied, cluster, context).await?;
    occupancy::mark(&found.pods, &pods, cluster, context).await?;
    let view = status::View {
        valid: &valid,
        found: &found,
        revision: &applied.revision,
        pods: &pods,
        plan: &plan,
        done: &done,
        readings: &readings,
        scaling: scaling.as_ref(),
        missing_route: applied.missing_route,
        redis_reachable: status::redis_reachable(&valid, &found).await,
    };
    let settled = status::update(cluster, context, &view, now).await?;
    if done.changes > 0 {
        let namespace = &valid.namespace;
        info!(%namespace, name = %valid.name, changes = done.changes, "Media nodes changed");
    }
    let again_in = if settled { PERIOD } else { PERIOD_OF_CHANGE };
    Ok(Report { outcome: Outcome::Done, again_in })
}
