use serde_json::Value;

use super::*;

fn ours(available: bool) -> Registration {
    Registration::Ours { available, message: "dial tcp: refused".to_owned() }
}

fn foreign() -> Registration {
    Registration::Foreign { service: "monitoring/adapter".to_owned() }
}

#[test]
fn the_operator_scales_where_the_metrics_api_cannot_be_had() {
    use AutoscalingMode::{BuiltIn, Hpa, None};
    let cases = [
        (None, ours(true), Scaler::None),
        (None, foreign(), Scaler::None),
        (BuiltIn, ours(true), Scaler::BuiltIn),
        (Hpa, Registration::Off, Scaler::BuiltIn),
        (Hpa, foreign(), Scaler::BuiltIn),
        (Hpa, Registration::Unknown, Scaler::Hpa),
        (Hpa, ours(true), Scaler::Hpa),
        (Hpa, ours(false), Scaler::Hpa),
    ];
    for (mode, registration, expected) in cases {
        assert_eq!(Scaler::of(mode, &registration), expected, "{mode:?} {registration:?}");
    }
}

/// Conditions with their truth and reason.
fn conditions(
    mode: AutoscalingMode,
    scaler: ActiveScaler,
    silent: bool,
    registration: &Registration,
) -> Vec<String> {
    let decision = Decision { nodes: 2, needed: 2, need: None, silent };
    let rival = None;
    let found = findings(mode, Some(&Scaling { scaler, decision, rival }), registration);
    found.iter().map(|f| format!("{}={}/{}", f.kind, f.truth.as_str(), f.reason)).collect()
}

#[test]
fn conditions_tell_who_scales_and_what_is_in_the_way() {
    use ActiveScaler as Active;
    use AutoscalingMode::{BuiltIn, Hpa};
    let cases = [
        (
            BuiltIn,
            Active::BuiltIn,
            false,
            Registration::Off,
            vec!["AutoscalingActive=True/BuiltIn"],
        ),
        (
            BuiltIn,
            Active::BuiltIn,
            true,
            Registration::Off,
            vec!["AutoscalingActive=False/NodesSilent"],
        ),
        (
            Hpa,
            Active::Hpa,
            false,
            ours(true),
            vec![
                "AutoscalingActive=True/HorizontalPodAutoscaler",
                "MetricsAPIAvailable=True/Registered",
            ],
        ),
        (
            Hpa,
            Active::Hpa,
            false,
            ours(false),
            vec![
                "AutoscalingActive=False/MetricsAPIUnavailable",
                "MetricsAPIAvailable=False/NoAnswer",
            ],
        ),
        (
            Hpa,
            Active::BuiltIn,
            false,
            foreign(),
            vec!["AutoscalingActive=True/BuiltIn", "MetricsAPIAvailable=False/OwnedByOther"],
        ),
        (
            Hpa,
            Active::BuiltIn,
            false,
            Registration::Off,
            vec!["AutoscalingActive=True/BuiltIn", "MetricsAPIAvailable=False/NotInstalled"],
        ),
    ];
    for (mode, scaler, silent, registration, expected) in cases {
        assert_eq!(conditions(mode, scaler, silent, &registration), expected);
    }
    assert!(findings(Hpa, None, &ours(true)).is_empty());
}

#[test]
fn who_applies_the_number_of_nodes_is_named() {
    let held = |manager: &str, operation: &str, fields: Value| {
        json!({"manager": manager, "operation": operation, "apiVersion": "livecluster.dev/v1alpha1",
            "fieldsType": "FieldsV1", "fieldsV1": fields})
    };
    let nodes = || json!({"f:spec": {"f:domain": {}, "f:nodes": {}}});
    let mut by_scale = held("kube-controller-manager", "Update", nodes());
    by_scale["subresource"] = json!("scale");
    let cases = [
        (json!([]), None),
        (json!([held("flux", "Apply", json!({"f:spec": {"f:domain": {}}}))]), None),
        (json!([held("kubectl-create", "Update", nodes()), by_scale]), None),
        (json!([held("kubectl", "Update", nodes()), held("flux", "Apply", nodes())]), Some("flux")),
    ];
    for (managed, expected) in cases {
        let cluster: LiveCluster = serde_json::from_value(json!({
            "apiVersion": "livecluster.dev/v1alpha1",
            "kind": "LiveCluster",
            "metadata": {"name": "demo", "managedFields": managed},
            "spec": {"domain": "live.example.com"},
        }))
        .unwrap();
        assert_eq!(rival(&cluster).as_deref(), expected, "{managed}");
    }
    let decision = Decision { nodes: 2, needed: 2, need: None, silent: false };
    let rival = Some("flux".to_owned());
    let scaling = Scaling { scaler: ActiveScaler::BuiltIn, decision, rival };
    let found = findings(AutoscalingMode::BuiltIn, Some(&scaling), &Registration::Off);
    assert_eq!(found[0].reason, "NodesAppliedByOther");
    assert!(found[0].message.starts_with("flux applies spec.nodes"), "{}", found[0].message);
}
