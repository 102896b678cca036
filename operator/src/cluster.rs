//! The reconcile of one LiveCluster.

use std::sync::Arc;
use std::time::Duration;

use crds::LiveCluster;
use kube::Resource as _;
use kube::runtime::reflector::ObjectRef;
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
pub mod looks;
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
    /// Everything is as it should be, and was so before.
    pub at_rest: bool,
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
        context.looks.forget(&ObjectRef::from_obj(&**cluster));
        return Ok(Report { outcome: Outcome::Done, again_in: PERIOD, at_rest: false });
    }
    if let Some(found) = context.looks.recall(cluster, context)
        && let Some(report) = act(&found, Sight::Remembered, context).await?
        && report.at_rest
    {
        return Ok(report);
    }
    context.looks.begin(cluster);
    let found = dereference::dereference(cluster, context).await?;
    let report = act(&found, Sight::Fresh, context).await?;
    let report = report.unwrap_or(Report {
        outcome: Outcome::Done,
        again_in: PERIOD_OF_CHANGE,
        at_rest: false,
    });
    if report.at_rest {
        context.looks.remember(found);
    }
    Ok(report)
}

/// Where what is known comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// Read just now.
    Fresh,
    /// Of the last look. Nobody makes or deletes media pods by that.
    Remembered,
}

/// Acts by what was found; `None` where that must be read anew before.
async fn act(
    found: &dereference::Dereferenced,
    sight: Sight,
    context: &Context,
) -> Result<Option<Report>, ReconcileError> {
    let cluster = &found.cluster;
    let valid = match validate::validate(found, &context.images) {
        Ok(valid) => valid,
        Err(invalid) => {
            if !status::is_told(cluster, invalid.reason()) {
                events::invalid(context, cluster, &invalid).await;
            }
            status::update_invalid(cluster, context, &invalid).await?;
            return Ok(Some(Report {
                outcome: Outcome::Invalid,
                again_in: PERIOD,
                at_rest: false,
            }));
        }
    };
    let now = (context.clock)();
    let material = material::complete(&valid, found, now)?;
    let resources = build::build(&valid, &material)?;
    let applied = match apply::apply(resources, cluster, context).await {
        Ok(applied) => applied,
        Err(error) => {
            if let Some(message) = error.refusal() {
                status::update_stuck(cluster, context, "ObjectRefused", message).await?;
            }
            return Err(error.into());
        }
    };
    let mut pods = nodes::observe(&found.pods, &context.hosts);
    let exposure = valid.spec.media.exposure;
    nodes::discover(&mut pods, exposure, &found.media_services, &valid.name).await;
    let readings = context.poller.poll(&pods).await;
    nodes::count(&mut pods, &readings);
    let capacity = valid.spec.node.capacity;
    let demand = Demand::of(&pods, &readings, valid.workers, capacity);
    let scaling = autoscaling::scale(found, &valid, &demand, context).await?;
    let plan = nodes::plan(&nodes::Desired::of(&valid, &applied.revision, now), &pods);
    if sight == Sight::Remembered && !plan.actions.is_empty() {
        return Ok(None);
    }
    let done = nodes::carry_out(&plan, &applied, cluster, context).await?;
    occupancy::mark(&found.pods, &pods, cluster, context).await?;
    let view = status::View {
        valid: &valid,
        found,
        revision: &applied.revision,
        pods: &pods,
        plan: &plan,
        done: &done,
        readings: &readings,
        scaling: scaling.as_ref(),
        missing: &applied.missing,
        redis_reachable: status::redis_reachable(&valid, found).await,
    };
    let settled = status::update(cluster, context, &view, now).await?;
    if done.changes > 0 {
        let namespace = &valid.namespace;
        info!(%namespace, name = %valid.name, changes = done.changes, "Media nodes changed");
    }
    let again_in = if settled { PERIOD } else { PERIOD_OF_CHANGE };
    let at_rest = settled && applied.unchanged;
    Ok(Some(Report { outcome: Outcome::Done, again_in, at_rest }))
}
