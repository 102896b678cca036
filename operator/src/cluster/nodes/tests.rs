use serde_json::json;

use super::*;

const NEW: &str = "new";
const OLD: &str = "old";

/// `slot:state` with `new`/`old` revision: `r` ready and open, `s` starting, `e` ended,
/// `t` terminating.
fn pod(slot: u16, state: char, revision: &str) -> NodePod {
    let phase = match state {
        'r' => NodePhase::Ready,
        's' => NodePhase::Starting,
        'e' => NodePhase::Ended,
        't' => NodePhase::Terminating,
        other => panic!("{other}"),
    };
    NodePod {
        name: names::node("c", slot),
        uid: format!("uid-{slot}"),
        slot: Some(slot),
        revision: revision.to_owned(),
        phase,
        host: Some("host".to_owned()),
        ip: None,
        host_addresses: Some("10.0.0.1".to_owned()),
        told_addresses: Some("10.0.0.1".to_owned()),
        open: true,
        trouble: None,
    }
}

/// Reads `0r 1s* 2t`: slot, state, `*` for the old revision.
fn pods(text: &str) -> Vec<NodePod> {
    text.split_whitespace()
        .map(|word| {
            let (word, revision) = word.strip_suffix('*').map_or((word, NEW), |word| (word, OLD));
            let (slot, state) = word.split_at(word.len() - 1);
            pod(slot.parse().unwrap(), state.chars().next().unwrap(), revision)
        })
        .collect()
}

/// Writes `+2` for a creation, `-1` for a deletion, `!0` for an opening.
fn written(plan: &Plan) -> String {
    let slot_of = |name: &str| name.rsplit('-').next().unwrap().to_owned();
    let words: Vec<_> = plan
        .actions
        .iter()
        .map(|action| match action {
            NodeAction::Create { slot } => format!("+{slot}"),
            NodeAction::Open { name, addresses: _ } => format!("!{}", slot_of(name)),
            NodeAction::Delete { name, uid: _, reason: _ } => format!("-{}", slot_of(name)),
        })
        .collect();
    words.join(" ")
}

fn decide(nodes: u16, text: &str) -> String {
    written(&plan(&Desired { nodes, slots: 100, revision: NEW }, &pods(text)))
}

#[test]
fn pods_become_what_is_desired() {
    let cases = [
        ("an empty cluster", 2, "", "+0 +1"),
        ("nothing to do", 2, "0r 1r", ""),
        ("pods that start are waited for", 2, "0r 1s", ""),
        ("a deleted pod keeps its slot, another comes at once", 2, "0t 1r", "+2"),
        ("an ended pod goes and another comes", 2, "0e 1r", "-0 +2"),
        ("the lowest free slot is taken", 3, "0r 2r", "+1"),
        ("more nodes", 4, "0r 1r", "+2 +3"),
        ("fewer nodes: the highest slot leaves", 1, "0r 1r 2r", "-2 -1"),
        ("fewer nodes: who serves nobody leaves first", 1, "0s 1r", "-0"),
        ("none more are deleted while some end", 1, "0r 1t", ""),
    ];
    for (fact, nodes, pods, actions) in cases {
        assert_eq!(decide(nodes, pods), actions, "{fact}");
    }
}

#[test]
fn a_changed_spec_replaces_one_pod_at_a_time_by_surge() {
    let cases = [
        ("first a new pod", 2, "0r* 1r*", "+2"),
        ("which is waited for", 2, "0r* 1r* 2s", ""),
        ("then an old one leaves", 2, "0r* 1r* 2r", "-1"),
        ("and the next new pod comes, in another slot", 2, "0r* 1t* 2r", "+3"),
        ("or in its slot when it is gone", 2, "0r* 2r", "+1"),
        ("until the last", 2, "0r* 1r 2r", "-0"),
        ("which was it", 2, "1r 2r", ""),
        ("one node alone is replaced by surge too", 1, "0r*", "+1"),
    ];
    for (fact, nodes, pods, actions) in cases {
        assert_eq!(decide(nodes, pods), actions, "{fact}");
    }
}

#[test]
fn a_spec_that_does_not_start_stops_and_its_correction_goes_on() {
    let cases = [
        ("a bad new pod stops the replacement", 2, "0r* 1r* 2s", ""),
        ("corrected: the bad pod goes first", 2, "0r* 1r* 2s*", "-2"),
        ("then a new one comes", 2, "0r* 1r*", "+2"),
        ("all old pods are bad: one goes without a surge", 2, "0s* 1s*", "-1"),
        ("then its successor comes", 2, "0s*", "+1"),
        ("and is waited for", 2, "0s* 1s", ""),
        ("and the next bad one goes", 2, "0s* 1r", "-0"),
        ("a bad old pod goes although a new one starts", 2, "0r* 1s* 2s", "-1"),
    ];
    for (fact, nodes, pods, actions) in cases {
        assert_eq!(decide(nodes, pods), actions, "{fact}");
    }
}

#[test]
fn scaling_in_during_a_replacement_takes_old_pods() {
    assert_eq!(decide(2, "0r 1r* 2r* 3r*"), "-3");
}

/// Carries a plan out on paper: what is created starts, what starts becomes ready in the next round.
fn carry_out_on_paper(pods: &mut Vec<NodePod>, plan: &Plan) {
    pods.retain(|pod| pod.phase != NodePhase::Terminating);
    for pod in pods.iter_mut() {
        if pod.phase == NodePhase::Starting {
            pod.phase = NodePhase::Ready;
        }
    }
    for action in &plan.actions {
        match action {
            NodeAction::Create { slot } => pods.push(pod(*slot, 's', NEW)),
            NodeAction::Delete { name, .. } => {
                let pod = pods.iter_mut().find(|pod| pod.name == *name).unwrap();
                pod.phase = NodePhase::Terminating;
            }
            NodeAction::Open { .. } => {}
        }
    }
}

#[test]
fn every_start_comes_to_rest_and_a_replacement_never_serves_less() {
    let starts =
        ["", "0r", "0r* 1r* 2r*", "0r* 1s* 2e", "0t 1t* 2r* 3r 4s*", "0e 1e 2e 3e", "7r* 9s"];
    for start in starts {
        let mut pods = pods(start);
        let desired = Desired { nodes: 3, slots: 100, revision: NEW };
        let serving = |pods: &[NodePod]| pods.iter().filter(|pod| pod.serves()).count();
        let least = serving(&pods).min(3);
        for round in 0..40 {
            let plan = plan(&desired, &pods);
            carry_out_on_paper(&mut pods, &plan);
            assert!(serving(&pods) >= least, "{start:?} round {round}: {pods:?}");
        }
        let at_rest = pods.iter().all(|pod| pod.serves() && pod.revision == NEW);
        assert!(at_rest && pods.len() == 3, "{start:?}: {pods:?}");
    }
}

#[test]
fn no_slot_is_used_twice_and_none_beyond_the_ports() {
    let desired = Desired { nodes: 3, slots: 3, revision: NEW };
    let exhausted = plan(&desired, &pods("0t 1t 2r"));
    assert_eq!((written(&exhausted).as_str(), exhausted.slots_exhausted), ("", true));
    let enough = plan(&desired, &pods("0t 2r"));
    assert_eq!((written(&enough).as_str(), enough.slots_exhausted), ("+1", true));
}

#[test]
fn a_large_cluster_grows_in_steps() {
    let plan = plan(&Desired { nodes: 1000, slots: 2000, revision: NEW }, &[]);
    assert_eq!(plan.actions.len(), MAX_ACTIONS);
}

#[test]
fn pods_take_traffic_once_their_addresses_are_known_and_are_told_of_changes() {
    let base = pod(0, 's', NEW);
    let cases = [
        ("told and open", base.clone(), ""),
        ("not scheduled", NodePod { host_addresses: None, open: false, ..base.clone() }, ""),
        ("scheduled", NodePod { told_addresses: None, open: false, ..base.clone() }, "!0"),
        ("changed", NodePod { told_addresses: Some("old".to_owned()), ..base.clone() }, "!0"),
        ("closed by somebody", NodePod { open: false, ..base.clone() }, "!0"),
        ("ends", NodePod { phase: NodePhase::Terminating, open: false, ..base }, "+1"),
    ];
    for (fact, pod, actions) in cases {
        let plan = plan(&Desired { nodes: 1, slots: 9, revision: NEW }, &[pod]);
        assert_eq!(written(&plan), actions, "{fact}");
    }
}

#[test]
fn external_addresses_come_before_internal_ones() {
    let node = |addresses: serde_json::Value| -> Node {
        serde_json::from_value(json!({"metadata": {}, "status": {"addresses": addresses}})).unwrap()
    };
    let internal = json!({"type": "InternalIP", "address": "10.0.0.1"});
    let internal6 = json!({"type": "InternalIP", "address": "fd00::1"});
    let external = json!({"type": "ExternalIP", "address": "192.0.2.1"});
    let name = json!({"type": "Hostname", "address": "host"});
    let cases = [
        (json!([internal, external, name]), Some("192.0.2.1")),
        (json!([name, internal, internal6]), Some("10.0.0.1,fd00::1")),
        (json!([name]), None),
    ];
    for (addresses, expected) in cases {
        assert_eq!(addresses_of(&node(addresses)).as_deref(), expected);
    }
}

#[test]
fn a_pod_is_read_as_kubernetes_means_it() {
    let read =
        |pod: serde_json::Value| observe_pod(&serde_json::from_value(pod).unwrap(), None, None);
    let cases = [
        (json!({"phase": "Pending"}), NodePhase::Starting, None),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
            NodePhase::Ready,
            None,
        ),
        (json!({"phase": "Failed"}), NodePhase::Ended, None),
        (
            json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}),
            NodePhase::Starting,
            Some("Unschedulable"),
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "sfu", "image": "", "imageID": "",
                "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            NodePhase::Starting,
            Some("CrashLoopBackOff"),
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [{"name": "sfu", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
            NodePhase::Starting,
            None,
        ),
    ];
    for (status, phase, trouble) in cases {
        let pod = read(json!({"metadata": {"name": "c-node-0"}, "status": status}));
        assert_eq!(pod.phase, phase, "{status}");
        assert_eq!(pod.trouble.map(|trouble| trouble.reason).as_deref(), trouble, "{status}");
    }
}
