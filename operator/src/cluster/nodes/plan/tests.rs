use super::*;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

const NEW: &str = "new";
const OLD: &str = "old";
const OLDER: &str = "older";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The time of every look, unless a test says otherwise.
const NOW: i64 = 1_000_000;

fn desired(nodes: u16) -> Desired<'static> {
    Desired {
        nodes,
        slots: 100,
        revision: NEW,
        drain_timeout: Duration::from_secs(3600),
        rooms_per_second: 5,
        now: at(NOW),
    }
}

/// `r` ready and open, `s` starting, `e` ended, `t` terminating, `c` cordoned, `d` draining.
fn pod(slot: u16, state: char, revision: &str) -> NodePod {
    let (since, reason) = (at(NOW - 60), LeaveReason::ScaledIn);
    let (phase, placement) = match state {
        'r' => (NodePhase::Ready, Placement::Open),
        's' => (NodePhase::Starting, Placement::Open),
        'e' => (NodePhase::Ended, Placement::Open),
        't' => (NodePhase::Terminating, Placement::Open),
        'c' => (NodePhase::Ready, Placement::Cordoned { since, reason }),
        'd' => (NodePhase::Ready, Placement::Draining { since, reason }),
        other => panic!("{other}"),
    };
    NodePod {
        name: crds::names::node("c", slot),
        revision: revision.to_owned(),
        phase,
        placement,
        host: Some("host".to_owned()),
        addresses: Some("10.0.0.1".to_owned()),
        told_addresses: Some("10.0.0.1".to_owned()),
        created: Some(at(NOW - 100)),
        ended: (state == 'e').then(|| at(NOW - 40)),
        ..NodePod::open(slot)
    }
}

/// Reads `0r 1s* 2t 3r:5 4r@c`: slot, state, `*` for the old revision (`**` for one before), `:`
/// and the subscribers, in as many rooms (`?` for no answer), `@` and the Kubernetes node's state
/// (`c` cordoned, `i` interrupted, `l` lost).
fn pods(text: &str) -> Vec<NodePod> {
    text.split_whitespace().map(read).collect()
}

fn read(word: &str) -> NodePod {
    let (word, host) = word.split_once('@').unwrap_or((word, ""));
    let (word, subscribers) = word.split_once(':').unwrap_or((word, "0"));
    let (word, revision) = match word.trim_end_matches('*') {
        stripped if stripped.len() == word.len() => (word, NEW),
        stripped if stripped.len() + 1 == word.len() => (stripped, OLD),
        stripped => (stripped, OLDER),
    };
    let (slot, state) = word.split_at(word.len() - 1);
    let mut pod = pod(slot.parse().unwrap(), state.chars().next().unwrap(), revision);
    pod.occupancy = match subscribers {
        "?" => Occupancy::Unknown,
        count => {
            let count = count.parse().unwrap();
            Occupancy::Known { rooms: count, subscribers: count }
        }
    };
    pod.host_state = match host {
        "c" => HostState::Cordoned,
        "i" => HostState::Interrupted,
        "l" => HostState::Lost,
        _ => HostState::Up,
    };
    pod
}

/// Writes `+2` for a creation, `-1` for a deletion, `!0` for an opening, `c3` for a cordon, `d3`
/// for a drain.
fn written(plan: &Plan) -> String {
    let slot_of = |name: &str| name.rsplit('-').next().unwrap().to_owned();
    let words: Vec<_> = plan
        .actions
        .iter()
        .map(|action| match action {
            NodeAction::Create { slot, attempt: _ } => format!("+{slot}"),
            NodeAction::Open { name, .. } => format!("!{}", slot_of(name)),
            NodeAction::Close { name, state, .. } => match state {
                NodeState::Open => panic!("{name} is closed as open"),
                NodeState::Cordoned => format!("c{}", slot_of(name)),
                NodeState::Draining { .. } => format!("d{}", slot_of(name)),
            },
            NodeAction::Delete { name, .. } => format!("-{}", slot_of(name)),
        })
        .collect();
    words.join(" ")
}

fn decide(nodes: u16, text: &str) -> String {
    written(&plan(&desired(nodes), &pods(text)))
}

fn check(cases: &[(&str, u16, &str, &str)]) {
    for (fact, nodes, pods, actions) in cases {
        assert_eq!(decide(*nodes, pods), *actions, "{fact}");
    }
}

#[test]
fn pods_become_what_is_desired() {
    check(&[
        ("an empty cluster", 2, "", "+0 +1"),
        ("nothing to do", 2, "0r 1r", ""),
        ("pods that start are waited for", 2, "0r 1s", ""),
        ("a deleted pod keeps its slot, another comes at once", 2, "0t 1r", "+2"),
        ("an ended pod goes and another comes", 2, "0e 1r", "+2 -0"),
        ("the lowest free slot is taken", 3, "0r 2r", "+1"),
        ("more nodes", 4, "0r 1r", "+2 +3"),
        ("fewer nodes: of equals the highest slots leave", 1, "0r 1r 2r", "c2 c1"),
        ("fewer nodes: who starts goes first, without a farewell", 1, "0s 1r", "-0"),
        ("none more leave while some end", 1, "0r 1t", ""),
        ("none more leave while some are cordoned", 1, "0r 1c:1", ""),
    ]);
}

#[test]
fn the_emptiest_leave_first() {
    check(&[
        ("by subscribers", 2, "0r:3 1r:1 2r:2", "c1"),
        ("who does not answer is not empty", 1, "0r:? 1r:9", "c1"),
        ("who is not ready leaves before, without being cut", 2, "0r:1 1s:4 2r:1", "c1"),
        ("earlier specifications before the emptiest", 1, "0r 1r*:9 2r*:8", "c2 c1"),
        ("cordoned Kubernetes nodes before the emptiest", 2, "0r 1r:9@c 2r 3r", "c1"),
    ]);
}

#[test]
fn of_equals_the_fullest_zone_gives() {
    let mut pods = pods("0r 1r 2r 3r");
    for (pod, zone) in pods.iter_mut().zip(["a", "a", "a", "b"]) {
        pod.zone = Some(zone.to_owned());
    }
    assert_eq!(written(&plan(&desired(2), &pods)), "c2 c1");
}

#[test]
fn the_reason_of_a_scale_in_is_told() {
    let plan = plan(&desired(1), &pods("0r:3 1r:2"));
    let NodeAction::Close { reason, because, since, .. } = &plan.actions[0] else { panic!() };
    assert_eq!((*reason, *since), (LeaveReason::ScaledIn, at(NOW)));
    assert_eq!(because, "it is the emptiest of 2, with 2 rooms and 2 subscribers");
}

#[test]
fn scale_out_takes_back_before_it_makes_new_ones() {
    check(&[
        ("a cordoned node comes back", 2, "0r 1c:1", "!1"),
        ("a draining one too", 2, "0r 1d:1", "!1"),
        ("the fullest first", 2, "0r 1c:1 2c:7", "!2"),
        ("then new ones", 3, "0r 1c:1", "!1 +2"),
        ("not one of an earlier specification", 2, "0r 1c*:1", "+2"),
        ("not one on a cordoned Kubernetes node", 2, "0r 1c:1@c", "+2"),
        ("not one that is being deleted", 2, "0r 1t", "+2"),
    ]);
}

#[test]
fn who_leaves_goes_when_empty_moves_when_late_and_ends_when_stuck() {
    let leaving = |state, subscribers: &str, seconds: i64| {
        let mut pod = read(&format!("1{state}:{subscribers}"));
        let (since, reason) = (at(NOW - seconds), LeaveReason::ScaledIn);
        pod.placement = match state {
            'c' => Placement::Cordoned { since, reason },
            _ => Placement::Draining { since, reason },
        };
        pod
    };
    let cases = [
        ("rooms are waited for", leaving('c', "1", 3599), ""),
        ("until the time is up", leaving('c', "1", 3600), "d1"),
        ("an empty one goes", leaving('c', "0", 10), "-1"),
        ("but not before its cordon has arrived", leaving('c', "0", 9), ""),
        ("silence is not emptiness", leaving('c', "?", 3599), ""),
        ("nor is it for ever", leaving('c', "?", 3600), "d1"),
        ("rooms move", leaving('d', "10", 121), ""),
        ("and then it goes", leaving('d', "0", 121), "-1"),
        ("what does not move ends", leaving('d', "10", 122), "-1"),
        ("a clock that went back harms nobody", leaving('c', "0", -50), ""),
    ];
    for (fact, pod, actions) in cases {
        let plan = plan(&desired(1), &[read("0r"), pod.clone()]);
        assert_eq!(written(&plan), actions, "{fact}");
        // Rooms are not sent away where nobody could take them.
        if actions == "d1" {
            let alone = super::plan(&desired(1), &[read("0s"), pod]);
            assert_eq!(written(&alone), "", "{fact}");
        }
    }
}

#[test]
fn a_changed_spec_replaces_one_pod_at_a_time_by_surge() {
    check(&[
        ("first a new pod", 2, "0r* 1r*", "+2"),
        ("which is waited for", 2, "0r* 1r* 2s", ""),
        ("then the emptiest old one takes no new rooms", 2, "0r*:1 1r*:2 2r", "c0"),
        ("and the next new pod comes beside it", 2, "0r* 1c*:2 2r", "+3"),
        ("which lets the next go", 2, "0r* 1c*:2 2r 3r", "c0"),
        ("rooms stay where they are", 2, "0c*:1 1c*:2 2r 3r", ""),
        ("an empty one goes", 2, "0c* 1c*:2 2r 3r", "-0"),
        ("or in its slot when it is gone", 2, "0r* 2r", "+1"),
        ("which was it", 2, "1r 2r", ""),
        ("one node alone is replaced by surge too", 1, "0r*", "+1"),
    ]);
}

#[test]
fn there_are_never_more_than_two_revisions() {
    check(&[
        ("rooms of an earlier one are waited for", 2, "0c**:1 1r*:1 2r*:1", ""),
        ("and then it goes on", 2, "1r*:1 2r*:1", "+0"),
        ("one that never started is no obstacle", 2, "0r**:1 1r**:1 2s*", "-2"),
        ("what is missing comes all the same", 2, "0c**:1 1r*:1", "+2"),
    ]);
}

#[test]
fn a_spec_that_does_not_start_stops_and_its_correction_goes_on() {
    check(&[
        ("a bad new pod stops the replacement", 2, "0r* 1r* 2s", ""),
        ("corrected: the bad pod goes first", 2, "0r* 1r* 2s*", "-2"),
        ("then a new one comes", 2, "0r* 1r*", "+2"),
        ("all old pods are bad: one goes without a surge", 2, "0s* 1s*", "-1"),
        ("then its successor comes", 2, "0s*", "+1"),
        ("and is waited for", 2, "0s* 1s", ""),
        ("and the next bad one goes", 2, "0s* 1r", "-0"),
        ("a bad old pod goes although a new one starts", 2, "0r* 1s* 2s", "-1"),
        ("one that may have rooms is not cut", 2, "0r* 1s*:?", "+2"),
    ]);
}

#[test]
fn a_kubernetes_node_that_leaves_gets_replacements_first() {
    check(&[
        ("cordoned: first a new pod", 2, "0r:1@c 1r", "+2"),
        ("which is waited for", 2, "0r:1@c 1r 2s", ""),
        ("then it takes no new rooms", 2, "0r:1@c 1r 2r", "c0"),
        ("interrupted: its rooms move at once", 2, "0r:1@i 1r", "d0 +2"),
        ("interrupted: a cordoned one's too", 1, "0c:1@i 1r", "d0"),
        ("interrupted, and nobody else: first a new pod", 1, "0r:1@i", "+1"),
        ("which is waited for", 1, "0r:1@i 1s", ""),
        ("and then they move", 1, "0r:1@i 1r", "d0"),
        ("lost: another comes, nothing is deleted", 2, "0r:1@l 1r", "+2"),
        ("it comes back: the emptiest is too many", 2, "0r:1 1r:1 2r", "c2"),
    ]);
}

#[test]
fn pods_that_end_early_are_replaced_after_a_wait_that_doubles() {
    let ended =
        |attempt, seconds: i64| NodePod { attempt, ended: Some(at(NOW - seconds)), ..read("0e") };
    let lived = NodePod { created: Some(at(NOW - 700)), ..ended(9, 1) };
    let cases = [
        ("the first at once", ended(0, 0), Some(1)),
        ("the second waits", ended(1, 9), None),
        ("ten seconds", ended(1, 10), Some(2)),
        ("then twenty", ended(2, 19), None),
        ("and so on", ended(5, 160), Some(6)),
        ("five minutes at most", ended(60, 300), Some(61)),
        ("one that lived long begins anew", lived, Some(1)),
    ];
    for (fact, pod, expected) in cases {
        let plan = plan(&desired(1), &[pod]);
        let attempt = plan.actions.iter().find_map(|action| match action {
            NodeAction::Create { attempt, .. } => Some(*attempt),
            NodeAction::Open { .. } | NodeAction::Close { .. } | NodeAction::Delete { .. } => None,
        });
        assert_eq!(attempt, expected, "{fact}");
        assert_eq!(plan.actions.len(), if expected.is_some() { 2 } else { 0 }, "{fact}");
    }
}

/// Carries a plan out on paper: what is created starts, what starts becomes ready in the next
/// round; rooms of nodes that leave end where the caller says so.
fn carry_out_on_paper(pods: &mut Vec<NodePod>, plan: &Plan, rooms_end: bool) {
    pods.retain(|pod| pod.phase != NodePhase::Terminating);
    for pod in pods.iter_mut() {
        if pod.phase == NodePhase::Starting {
            pod.phase = NodePhase::Ready;
        }
        if rooms_end && pod.is_leaving() {
            pod.occupancy = Occupancy::EMPTY;
        }
    }
    for action in &plan.actions {
        let found = |uid: &String| pods.iter().position(|pod| pod.uid == *uid).unwrap();
        match action {
            NodeAction::Create { slot, attempt: _ } => {
                assert!(pods.iter().all(|pod| pod.slot != Some(*slot)), "slot {slot} twice");
                pods.push(pod(*slot, 's', NEW));
            }
            NodeAction::Delete { uid, .. } => {
                let at = found(uid);
                pods[at].phase = NodePhase::Terminating;
            }
            NodeAction::Open { uid, .. } => {
                let at = found(uid);
                pods[at].placement = Placement::Open;
            }
            NodeAction::Close { uid, state, since, reason, .. } => {
                let (at, since, reason) = (found(uid), *since, *reason);
                pods[at].placement = match state {
                    NodeState::Draining { .. } => Placement::Draining { since, reason },
                    NodeState::Open | NodeState::Cordoned => Placement::Cordoned { since, reason },
                };
            }
        }
    }
}

#[test]
fn every_start_comes_to_rest_and_no_replacement_cuts_a_room_or_serves_less() {
    let starts = [
        "",
        "0r",
        "0r*:1 1r*:2 2r*:3",
        "0r* 1s* 2e",
        "0t 1t* 2r* 3r 4s*",
        "0e 1e 2e 3e",
        "7r*:4 9s",
        "0r:1@c 1r:2 2r:3@c",
        "0c**:1 1r*:2 2r*:3 3c*:4",
        "0r:1 1r:2 2r:3 3r:4 4r:5 5c:6",
    ];
    for start in starts {
        let mut pods = pods(start);
        let serving = |pods: &[NodePod]| pods.iter().filter(|pod| pod.serves()).count();
        let least = serving(&pods).min(3);
        for round in 0..60 {
            let now = at(NOW) + SignedDuration::from_secs(30 * round);
            let plan = plan(&Desired { now, ..desired(3) }, &pods);
            for action in &plan.actions {
                if let NodeAction::Delete { uid, .. } = action {
                    let pod = pods.iter().find(|pod| pod.uid == *uid).unwrap();
                    let ended = pod.phase == NodePhase::Ended;
                    assert!(ended || pod.is_empty(), "{start:?} round {round}: {pod:?} is cut");
                }
            }
            carry_out_on_paper(&mut pods, &plan, round % 5 == 4);
            assert!(serving(&pods) >= least, "{start:?} round {round}: {pods:?}");
        }
        let at_rest = pods.iter().all(|pod| pod.serves() && pod.revision == NEW);
        assert!(at_rest && pods.len() == 3, "{start:?}: {pods:?}");
    }
}

#[test]
fn the_next_look_takes_no_step_twice() {
    for (nodes, start) in [(1, "0r:1 1r:2 2r:3"), (2, "0r*:1 1r*:1 2r"), (2, "0r:1@i 1r:1")] {
        let mut pods = pods(start);
        let first = plan(&desired(nodes), &pods);
        carry_out_on_paper(&mut pods, &first, false);
        let second = plan(&desired(nodes), &pods);
        let repeated = second.actions.iter().filter(|action| first.actions.contains(action));
        assert_eq!(repeated.count(), 0, "{start}: {first:?} then {second:?}");
    }
}

#[test]
fn no_slot_is_used_twice_and_none_beyond_the_ports() {
    let three = Desired { slots: 3, ..desired(3) };
    let exhausted = plan(&three, &pods("0t 1t 2r"));
    assert_eq!((written(&exhausted).as_str(), exhausted.slots_exhausted), ("", true));
    let enough = plan(&three, &pods("0t 2r"));
    assert_eq!((written(&enough).as_str(), enough.slots_exhausted), ("+1", true));
    let waits = plan(&Desired { slots: 3, ..desired(2) }, &pods("0c*:1 1r* 2r"));
    let replaced = (written(&waits), waits.slots_exhausted);
    assert_eq!(replaced, (String::new(), false), "a replacement waits for ports");
}

#[test]
fn a_large_cluster_grows_in_steps() {
    let plan = plan(&Desired { slots: 2000, ..desired(1000) }, &[]);
    assert_eq!(plan.actions.len(), MAX_ACTIONS);
    assert!(!plan.slots_exhausted);
}

#[test]
fn pods_take_traffic_once_their_addresses_are_known_and_are_told_of_changes() {
    let base = NodePod { phase: NodePhase::Starting, ..read("0r") };
    let new = NodePod { placement: Placement::New, ..base.clone() };
    let cases = [
        ("told and open", base.clone(), ""),
        ("not scheduled", NodePod { addresses: None, ..new.clone() }, ""),
        ("scheduled", NodePod { told_addresses: None, ..new.clone() }, "!0"),
        ("changed", NodePod { told_addresses: Some("old".to_owned()), ..base.clone() }, "!0"),
        ("closed by somebody", new.clone(), "!0"),
        ("ends", NodePod { phase: NodePhase::Terminating, ..new }, "+1"),
        ("leaves", NodePod { told_addresses: None, ..read("0c:1") }, "!0"),
        ("its Kubernetes node is not known now", NodePod { addresses: None, ..base }, ""),
    ];
    for (fact, pod, actions) in cases {
        assert_eq!(written(&plan(&desired(1), &[pod])), actions, "{fact}");
    }
}
