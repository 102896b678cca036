//! The HorizontalPodAutoscaler of the media nodes.

use std::time::Duration;

use crds::names::{self, component};
use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricIdentifier, MetricSpec,
    MetricTarget, ObjectMetricSource,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource as _;

use super::metadata;
use crate::cluster::autoscaling::scaler::{Pace, Policy};
use crate::cluster::validate::ValidCluster;
use crate::metrics_api::Metric;

/// Twice as many nodes a period are always allowed: a small cluster must follow a burst, too.
const DOUBLE_PERCENT: i32 = 100;

/// Asks the metrics API for sums over the LiveCluster (type `Object`, `AverageValue`), so that
/// neither a pod that starts nor one that leaves distorts them.
pub fn autoscaler(valid: &ValidCluster) -> HorizontalPodAutoscaler {
    let policy = &valid.policy;
    HorizontalPodAutoscaler {
        metadata: metadata(valid, names::autoscaler(&valid.name), component::NODE),
        spec: HorizontalPodAutoscalerSpec {
            scale_target_ref: target(valid),
            min_replicas: Some(policy.min.into()),
            max_replicas: policy.max.into(),
            metrics: Some(metrics(valid, policy)),
            behavior: Some(HorizontalPodAutoscalerBehavior {
                scale_up: Some(HPAScalingRules {
                    policies: Some(vec![
                        pods(policy.scale_out),
                        HPAScalingPolicy {
                            type_: "Percent".to_owned(),
                            value: DOUBLE_PERCENT,
                            period_seconds: seconds(policy.scale_out.period),
                        },
                    ]),
                    ..rules(policy.scale_out)
                }),
                scale_down: Some(rules(policy.scale_in)),
            }),
        },
        status: None,
    }
}

fn target(valid: &ValidCluster) -> CrossVersionObjectReference {
    CrossVersionObjectReference {
        api_version: Some(crds::LiveCluster::api_version(&()).into_owned()),
        kind: crds::LiveCluster::kind(&()).into_owned(),
        name: valid.name.clone(),
    }
}

fn metrics(valid: &ValidCluster, policy: &Policy) -> Vec<MetricSpec> {
    let rooms = if policy.free_slots == 0 { Metric::Rooms } else { Metric::RoomSlots };
    let targets = [
        (rooms, policy.rooms.map(|target| target.to_string())),
        (Metric::Subscribers, policy.subscribers.map(|target| target.to_string())),
        (Metric::Load, policy.load.map(|target| format!("{target}m"))),
    ];
    let targets = targets.into_iter().filter_map(|(metric, target)| Some((metric, target?)));
    let spec = |(metric, value): (Metric, String)| MetricSpec {
        type_: "Object".to_owned(),
        object: Some(ObjectMetricSource {
            described_object: target(valid),
            metric: MetricIdentifier { name: metric.as_str().to_owned(), selector: None },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(value)),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    targets.map(spec).collect()
}

fn rules(pace: Pace) -> HPAScalingRules {
    HPAScalingRules {
        stabilization_window_seconds: Some(seconds(pace.window)),
        select_policy: Some("Max".to_owned()),
        policies: Some(vec![pods(pace)]),
        ..HPAScalingRules::default()
    }
}

fn pods(pace: Pace) -> HPAScalingPolicy {
    HPAScalingPolicy {
        type_: "Pods".to_owned(),
        value: pace.nodes.into(),
        period_seconds: seconds(pace.period),
    }
}

/// Windows and periods are an hour at most.
fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}
