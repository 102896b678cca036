use serde_json::{Value, json};

use super::*;
use crate::cluster::poll::Counts;

fn host(value: Value) -> Node {
    serde_json::from_value(value).unwrap()
}

fn read(value: Value) -> NodePod {
    observe_pod(&serde_json::from_value(value).unwrap(), &Hosts::Unseen)
}

#[test]
fn a_version_is_the_tag_of_the_image_or_the_beginning_of_its_digest() {
    let digest = "sha256:0123456789abcdef0123456789abcdef";
    let cases = [
        ("sfu:1.2.3".to_owned(), "1.2.3"),
        ("registry.example.com:5000/live/sfu:1.2.3".to_owned(), "1.2.3"),
        (format!("sfu:1.2.3@{digest}"), "1.2.3"),
        (format!("registry.example.com:5000/sfu@{digest}"), "0123456789ab"),
        ("registry.example.com:5000/sfu".to_owned(), "latest"),
    ];
    for (image, version) in cases {
        let containers =
            json!([{"name": "proxy", "image": "proxy:7"}, {"name": "sfu", "image": image}]);
        let pod = read(json!({"metadata": {}, "spec": {"containers": containers}}));
        assert_eq!(pod.version.as_deref(), Some(version), "{image}");
    }
}

#[test]
fn a_kubernetes_node_tells_what_it_is_about_to_do() {
    let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
    let tainted = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
    let cases = [
        (json!({}), json!({}), HostState::Up),
        (json!({}), ready("True"), HostState::Up),
        (tainted("dedicated"), ready("True"), HostState::Up),
        (json!({"unschedulable": true}), ready("True"), HostState::Cordoned),
        (tainted("karpenter.sh/disrupted"), ready("True"), HostState::Interrupted),
        (tainted("cloud.google.com/impending-node-termination"), json!({}), HostState::Interrupted),
        (json!({}), ready("Unknown"), HostState::Lost),
        (json!({"unschedulable": true}), ready("False"), HostState::Lost),
    ];
    for (spec, status, expected) in cases {
        let node = host(json!({"metadata": {}, "spec": spec, "status": status}));
        assert_eq!(host_state(&node), expected, "{spec} {status}");
    }
}

#[test]
fn a_pod_is_read_as_kubernetes_means_it() {
    let waiting = |restarts: u32, reason: &str| {
        json!({"phase": "Running", "containerStatuses": [{"name": "sfu", "image": "", "imageID": "",
            "ready": false, "restartCount": restarts, "state": {"waiting": {"reason": reason}}}]})
    };
    let cases = [
        (json!({"phase": "Pending"}), NodePhase::Starting, None),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
            NodePhase::Ready,
            None,
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), NodePhase::Ended, Some("Evicted")),
        (
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
            NodePhase::Starting,
            Some("Unschedulable"),
        ),
        (waiting(3, "CrashLoopBackOff"), NodePhase::Starting, Some("CrashLoopBackOff")),
        (waiting(0, "ContainerCreating"), NodePhase::Starting, None),
    ];
    for (status, phase, trouble) in cases {
        let pod = read(json!({"metadata": {"name": "c-node-0"}, "status": status}));
        assert_eq!(pod.phase, phase, "{status}");
        assert_eq!(pod.trouble.map(|trouble| trouble.reason).as_deref(), trouble, "{status}");
    }
}

#[test]
fn the_state_on_a_pod_is_read_and_what_somebody_else_wrote_does_no_harm() {
    let at = Timestamp::from_second(1_700_000_000).unwrap();
    let full = json!({
        names::PLACEMENT_SINCE: at.to_string(),
        names::PLACEMENT_REASON: "NodeReplaced",
    });
    let (long_ago, scaled) = (Timestamp::UNIX_EPOCH, LeaveReason::ScaledIn);
    let cases = [
        (None, json!({}), Placement::New),
        (Some("nonsense"), full.clone(), Placement::New),
        (Some("open"), full.clone(), Placement::Open),
        (
            Some("cordoned"),
            full.clone(),
            Placement::Cordoned { since: at, reason: LeaveReason::Replaced },
        ),
        (Some("draining"), full, Placement::Draining { since: at, reason: LeaveReason::Replaced }),
        (Some("cordoned"), json!({}), Placement::Cordoned { since: long_ago, reason: scaled }),
        (
            Some("draining"),
            json!({names::PLACEMENT_SINCE: "yesterday", names::PLACEMENT_REASON: "Whim"}),
            Placement::Draining { since: long_ago, reason: scaled },
        ),
    ];
    for (label, annotations, expected) in cases {
        let labels = label.map_or_else(|| json!({}), |label| json!({names::PLACEMENT: label}));
        let pod = read(json!({"metadata": {"labels": labels, "annotations": annotations}}));
        assert_eq!(pod.placement, expected, "{label:?} {annotations}");
    }
}

#[test]
fn a_node_is_empty_only_where_it_says_so_or_cannot_be_otherwise() {
    let running = json!({"phase": "Running", "containerStatuses": [{"name": "sfu", "image": "",
        "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]});
    let pod = |labels: Value, annotations: Value, status: &Value| {
        let metadata = json!({"uid": "u", "labels": labels, "annotations": annotations});
        read(json!({"metadata": metadata, "status": status}))
    };
    let open = json!({names::PLACEMENT: "open"});
    let told = json!({names::ADVERTISE_ADDRESSES: "192.0.2.1"});
    let counts = Counts { rooms: 2, participants: 5, subscribers: 4 };
    let reading =
        |seconds| Reading { counts, busy_millis: None, age: Duration::from_secs(seconds) };
    let counted = Occupancy::Known { rooms: 2, subscribers: 4 };
    let cases = [
        ("never open", pod(json!({}), json!({}), &running), None, Occupancy::EMPTY),
        ("label taken away", pod(json!({}), told, &running), None, Occupancy::Unknown),
        ("silent", pod(open.clone(), json!({}), &running), None, Occupancy::Unknown),
        ("old answer", pod(open.clone(), json!({}), &running), Some(60), Occupancy::Unknown),
        ("answer", pod(open.clone(), json!({}), &running), Some(1), counted),
        ("crashed", pod(open, json!({}), &json!({"phase": "Running"})), None, Occupancy::EMPTY),
    ];
    for (fact, pod, age, expected) in cases {
        let readings = age.map(|age| ("u".to_owned(), reading(age))).into_iter().collect();
        let mut pods = [pod];
        count(&mut pods, &readings);
        assert_eq!(pods[0].occupancy, expected, "{fact}");
    }
}

#[test]
fn the_region_is_that_of_the_kubernetes_node_or_what_kubernetes_wrote_on_the_pod() {
    let labels = |region: &str| json!({"metadata": {"labels": {REGION: region}}});
    let cases = [
        (json!({}), None, None),
        (json!({}), Some(json!({})), None),
        (labels("north"), None, Some("north")),
        (json!({}), Some(labels("south")), Some("south")),
        (labels("north"), Some(labels("south")), Some("south")),
    ];
    for (pod, node, expected) in cases {
        let node: Option<Node> = node.map(host);
        let found = region_of(&serde_json::from_value(pod.clone()).unwrap(), node.as_ref());
        assert_eq!(found.as_deref(), expected, "{pod} on {node:?}");
    }
}
