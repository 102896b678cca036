//! `operator alternative`: configuration of other programs that may set the number of nodes, made
//! from what `spec.autoscaling` says. The LiveCluster itself then has `mode: None`.

use contract::metrics::{ROOMS, SUBSCRIBERS};
use crds::LiveCluster;
use crds::duration::Period;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use thiserror::Error;

use crate::metrics_api::Metric;

/// Namespace of a LiveCluster whose manifest names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum AlternativeError {
    /// The input is no LiveCluster.
    #[error("the input is no LiveCluster")]
    Read(#[from] serde_saphyr::Error),
    /// There is nothing that others could go by.
    #[error("spec.autoscaling has neither roomsPerNode nor subscribersPerNode")]
    NoTarget,
    /// A window or period is no duration.
    #[error("spec.autoscaling.behavior holds no duration such as 10m")]
    NoDuration,
    /// The result is no YAML, which would be a fault of ours.
    #[error("failed to write YAML")]
    Write(#[from] serde_saphyr::ser::Error),
}

/// A figure of a LiveCluster, and how much of it a node shall have.
struct Target {
    metric: Metric,
    /// The series of the media nodes.
    series: &'static str,
    per_node: u32,
}

fn targets(cluster: &LiveCluster) -> Result<Vec<Target>, AlternativeError> {
    let spec = &cluster.spec.autoscaling;
    let all = [
        (Metric::Rooms, ROOMS, spec.rooms_per_node),
        (Metric::Subscribers, SUBSCRIBERS, spec.subscribers_per_node),
    ];
    let targets: Vec<Target> = all
        .into_iter()
        .filter_map(|(metric, series, per_node)| {
            Some(Target { metric, series, per_node: per_node? })
        })
        .collect();
    if targets.is_empty() { Err(AlternativeError::NoTarget) } else { Ok(targets) }
}

/// Rules of prometheus-adapter, as values of its chart: sums over the nodes of a LiveCluster.
///
/// # Errors
///
/// When they cannot be written as YAML.
pub fn prometheus_adapter() -> Result<String, AlternativeError> {
    let rule = |(metric, series): (Metric, &str)| {
        json!({
            "seriesQuery": format!("{series}{{namespace!=\"\",livecluster!=\"\"}}"),
            "resources": { "overrides": {
                "namespace": { "resource": "namespace" },
                "livecluster": { "group": "livecluster.dev", "resource": "livecluster" },
            } },
            "name": { "matches": format!("^{series}$"), "as": metric.as_str() },
            "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
        })
    };
    let rules = [(Metric::Rooms, ROOMS), (Metric::Subscribers, SUBSCRIBERS)].map(rule);
    yaml(&json!({ "rules": { "custom": rules } }))
}

/// A HorizontalPodAutoscaler that asks prometheus-adapter, for a LiveCluster in YAML.
///
/// # Errors
///
/// When the input is no LiveCluster with targets.
pub fn horizontal_pod_autoscaler(manifest: &str) -> Result<String, AlternativeError> {
    let cluster: LiveCluster = serde_saphyr::from_str(manifest)?;
    let metric = |target: Target| {
        json!({ "type": "Object", "object": {
            "describedObject": reference(&cluster),
            "metric": { "name": target.metric.as_str() },
            // Never `Value`, which pods that start or leave distort.
            "target": { "type": "AverageValue", "averageValue": target.per_node.to_string() },
        } })
    };
    let metrics: Vec<Value> = targets(&cluster)?.into_iter().map(metric).collect();
    let spec = &cluster.spec.autoscaling;
    let scale_in = &spec.behavior.scale_in;
    yaml(&json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(&cluster),
        "spec": {
            "scaleTargetRef": reference(&cluster),
            "minReplicas": spec.min_nodes,
            "maxReplicas": spec.max_nodes,
            "metrics": metrics,
            "behavior": { "scaleDown": {
                "stabilizationWindowSeconds": seconds(&scale_in.window)?,
                "policies": [{
                    "type": "Pods",
                    "value": scale_in.nodes,
                    "periodSeconds": seconds(&scale_in.period)?,
                }],
            } },
        },
    }))
}

/// A ScaledObject of KEDA that asks Prometheus at this address, for a LiveCluster in YAML.
///
/// # Errors
///
/// When the input is no LiveCluster with targets.
pub fn keda(manifest: &str, prometheus: &str) -> Result<String, AlternativeError> {
    let cluster: LiveCluster = serde_saphyr::from_str(manifest)?;
    let (namespace, name) = (namespace(&cluster), cluster.name_any());
    let trigger = |target: Target| {
        let Target { metric: _, series, per_node } = target;
        json!({ "type": "prometheus", "metadata": {
            "serverAddress": prometheus,
            "query": format!("sum({series}{{namespace=\"{namespace}\",livecluster=\"{name}\"}})"),
            "threshold": per_node.to_string(),
            // Silence is not emptiness.
            "ignoreNullValues": "false",
        } })
    };
    let triggers: Vec<Value> = targets(&cluster)?.into_iter().map(trigger).collect();
    let spec = &cluster.spec.autoscaling;
    yaml(&json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(&cluster),
        "spec": {
            "scaleTargetRef": reference(&cluster),
            "minReplicaCount": spec.min_nodes,
            "maxReplicaCount": spec.max_nodes,
            "triggers": triggers,
        },
    }))
}

fn seconds(period: &Period) -> Result<u64, AlternativeError> {
    Ok(period.as_duration().ok_or(AlternativeError::NoDuration)?.as_secs())
}

fn namespace(cluster: &LiveCluster) -> String {
    cluster.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

fn metadata(cluster: &LiveCluster) -> Value {
    json!({ "name": cluster.name_any(), "namespace": namespace(cluster) })
}

fn reference(cluster: &LiveCluster) -> Value {
    json!({
        "apiVersion": "livecluster.dev/v1alpha1",
        "kind": "LiveCluster",
        "name": cluster.name_any(),
    })
}

fn yaml(value: &Value) -> Result<String, AlternativeError> {
    Ok(serde_saphyr::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

    use super::*;

    const MANIFEST: &str = "
        apiVersion: livecluster.dev/v1alpha1
        kind: LiveCluster
        metadata: {name: demo, namespace: live}
        spec:
          domain: live.example.com
          autoscaling: {mode: BuiltIn, minNodes: 2, maxNodes: 9, roomsPerNode: 40, subscribersPerNode: 800}
    ";

    #[test]
    fn a_horizontal_pod_autoscaler_has_the_fields_of_its_kind() {
        let text = horizontal_pod_autoscaler(MANIFEST).unwrap();
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        let typed: HorizontalPodAutoscaler = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), value);
        let spec = typed.spec;
        assert_eq!((spec.min_replicas, spec.max_replicas), (Some(2), 9));
        let metrics = spec.metrics.unwrap();
        let target = |index: usize| metrics[index].object.clone().unwrap();
        assert_eq!(target(0).metric.name, "rooms");
        assert_eq!(target(0).target.average_value.unwrap().0, "40");
        assert_eq!(target(1).metric.name, "subscribers");
        let down = spec.behavior.unwrap().scale_down.unwrap();
        assert_eq!(down.stabilization_window_seconds, Some(600));
    }

    #[test]
    fn keda_asks_for_sums_of_this_live_cluster() {
        let text = keda(MANIFEST, "http://prometheus:9090").unwrap();
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(value["spec"]["minReplicaCount"], 2);
        let trigger = &value["spec"]["triggers"][1]["metadata"];
        let query = "sum(livecluster_subscribers{namespace=\"live\",livecluster=\"demo\"})";
        assert_eq!(trigger["query"], query);
        assert_eq!(trigger["threshold"], "800");
    }

    #[test]
    fn rules_make_our_metrics_of_series_that_media_nodes_export() {
        let value: Value = serde_saphyr::from_str(&prometheus_adapter().unwrap()).unwrap();
        for (index, series) in [ROOMS, SUBSCRIBERS].into_iter().enumerate() {
            assert!(contract::metrics::OF_MEDIA_NODE.contains(&series));
            let rule = &value["rules"]["custom"][index];
            assert!(rule["seriesQuery"].as_str().unwrap().starts_with(series));
            assert!(series.ends_with(rule["name"]["as"].as_str().unwrap()));
        }
    }

    #[test]
    fn without_a_target_there_is_nothing_to_go_by() {
        let manifest =
            MANIFEST.replace("roomsPerNode: 40, subscribersPerNode: 800", "loadPercent: 50");
        assert!(matches!(keda(&manifest, "http://p"), Err(AlternativeError::NoTarget)));
        assert!(matches!(keda("kind: [", "http://p"), Err(AlternativeError::Read(_))));
    }
}
