use crds::LiveCluster;

use super::*;
use crate::cluster::nodes::{LeaveReason, Refusal, Trouble};
use crate::cluster::validate::tests::{images, with_spec};
use crate::cluster::validate::validate;

const REVISION: &str = "new";

fn pod(slot: u16, phase: NodePhase, revision: &str) -> NodePod {
    NodePod {
        revision: revision.to_owned(),
        phase,
        host: Some("host".to_owned()),
        ip: Some("10.0.0.2".to_owned()),
        addresses: Some("192.0.2.1".to_owned()),
        told_addresses: Some("192.0.2.1".to_owned()),
        ..NodePod::open(slot)
    }
}

struct Scene {
    found: Dereferenced,
    valid: ValidCluster,
    pods: Vec<NodePod>,
    plan: Plan,
    done: CarriedOut,
    readings: HashMap<String, Reading>,
    redis: bool,
    missing: BTreeSet<ForeignKind>,
}

impl Scene {
    fn new(pods: Vec<NodePod>) -> Self {
        let found = with_spec("nodes: 2");
        let valid = validate(&found, &images()).unwrap();
        Self {
            found,
            valid,
            pods,
            plan: Plan::default(),
            done: CarriedOut::default(),
            readings: HashMap::new(),
            redis: true,
            missing: BTreeSet::new(),
        }
    }

    fn status_after(&self, old: &LiveCluster) -> LiveClusterStatus {
        let view = View {
            valid: &self.valid,
            found: &self.found,
            revision: REVISION,
            pods: &self.pods,
            plan: &self.plan,
            done: &self.done,
            readings: &self.readings,
            redis_reachable: self.redis,
            scaling: None,
            missing: &self.missing,
        };
        status_of(old, &view, Timestamp::from_second(100).unwrap())
    }

    fn status(&self) -> LiveClusterStatus {
        self.status_after(&self.found.cluster)
    }

    /// `Ready` and its reason, then the other conditions that hold.
    fn summary(&self) -> String {
        let status = self.status();
        let ready = &status.conditions[0];
        let others = status.conditions[1..].iter().filter(|c| c.status == "True");
        let others: Vec<_> = others.map(|c| c.type_.as_str()).collect();
        format!("{}/{}: {}", ready.status, ready.reason, others.join(" "))
    }
}

#[test]
fn conditions_tell_the_state() {
    use NodePhase::{Ready, Starting, Terminating};
    let ready = || vec![pod(0, Ready, REVISION), pod(1, Ready, REVISION)];
    let redis_down = Scene { redis: false, ..Scene::new(ready()) };
    let refused = Scene {
        done: CarriedOut { changes: 0, refusal: Some(Refusal::PodSecurity("no".to_owned())) },
        ..Scene::new(Vec::new())
    };
    let exhausted = Scene {
        plan: Plan { actions: Vec::new(), slots_exhausted: true },
        ..Scene::new(vec![pod(0, Ready, REVISION)])
    };
    let trouble = Trouble { reason: "ImagePullBackOff".to_owned(), message: "no image".to_owned() };
    let pulling = NodePod { trouble: Some(trouble), ..pod(1, Starting, REVISION) };
    let untold =
        NodePod { told_addresses: None, placement: Placement::New, ..pod(1, Ready, REVISION) };
    let cases = [
        (Scene::new(ready()), "True/Ready: Available RedisReachable AddressesDiscovered"),
        (redis_down, "False/RedisUnreachable: Available AddressesDiscovered"),
        (Scene::new(Vec::new()), "False/NodesStarting: Progressing RedisReachable"),
        (
            Scene::new(vec![pod(0, Ready, REVISION), untold]),
            "False/NodesStarting: Available Progressing RedisReachable",
        ),
        (
            Scene::new(vec![pod(0, Ready, "old"), pod(1, Ready, REVISION)]),
            "False/NodesReplaced: Available Progressing RedisReachable AddressesDiscovered",
        ),
        (
            Scene::new([ready(), vec![pod(2, Terminating, "old")]].concat()),
            "True/Ready: Available Progressing RedisReachable AddressesDiscovered",
        ),
        (refused, "False/PodSecurityForbidsHostPorts: Progressing Degraded RedisReachable"),
        (
            exhausted,
            "False/SlotsExhausted: Available Progressing Degraded RedisReachable AddressesDiscovered",
        ),
        (
            Scene::new(vec![pod(0, Ready, REVISION), pulling]),
            "False/ImagePullBackOff: Available Progressing Degraded RedisReachable AddressesDiscovered",
        ),
    ];
    for (scene, summary) in cases {
        assert_eq!(scene.summary(), summary);
    }
}

#[test]
fn nodes_that_leave_are_not_counted() {
    let mut scene = Scene::new(vec![
        pod(0, NodePhase::Ready, REVISION),
        pod(1, NodePhase::Terminating, REVISION),
        pod(2, NodePhase::Starting, REVISION),
    ]);
    let status = scene.status();
    assert_eq!((status.nodes, status.ready_nodes), (2, 1));
    scene.pods.push(pod(3, NodePhase::Ready, REVISION));
    assert_eq!(scene.status().nodes, 2, "a surge is not counted either");
    let (since, reason) = (Timestamp::UNIX_EPOCH, LeaveReason::Replaced);
    for placement in [Placement::Cordoned { since, reason }, Placement::Draining { since, reason }]
    {
        scene.pods = vec![pod(0, NodePhase::Ready, REVISION)];
        scene.pods.push(NodePod { placement, ..pod(1, NodePhase::Ready, "old") });
        let status = scene.status();
        assert_eq!((status.nodes, status.ready_nodes, status.draining_nodes), (1, 1, 1));
    }
}

#[test]
fn counts_are_added_up_and_silence_keeps_the_last() {
    let mut scene =
        Scene::new(vec![pod(0, NodePhase::Ready, REVISION), pod(1, NodePhase::Ready, REVISION)]);
    let counts = |rooms| Reading {
        counts: Counts { rooms, participants: 2 * rooms, subscribers: rooms },
        busy_millis: None,
        age: Duration::ZERO,
    };
    scene.readings =
        HashMap::from([("uid-0".to_owned(), counts(3)), ("uid-1".to_owned(), counts(4))]);
    let status = scene.status();
    assert_eq!((status.rooms, status.participants, status.subscribers), (7, 14, 7));

    let mut old = (*scene.found.cluster).clone();
    old.status = Some(status);
    scene.readings.remove("uid-1");
    assert_eq!(scene.status_after(&old).rooms, 7);
    // An operator that has just started knows nothing yet.
    scene.readings.clear();
    assert_eq!(scene.status_after(&old).rooms, 7);
}

#[test]
fn the_versions_of_nodes_that_live_are_told_once_each() {
    let of = |slot, phase, version: &str| NodePod {
        version: Some(version.to_owned()),
        ..pod(slot, phase, REVISION)
    };
    let (ready, ended) = (NodePhase::Ready, NodePhase::Terminating);
    let cases = [
        (vec![], None),
        (vec![of(0, ready, "1.0"), of(1, ready, "1.0"), of(2, ended, "0.9")], Some("1.0")),
        (vec![of(0, ready, "1.1"), of(1, NodePhase::Starting, "1.0")], Some("1.0,1.1")),
    ];
    for (pods, expected) in cases {
        assert_eq!(Scene::new(pods).status().version.as_deref(), expected);
    }
}

#[test]
fn the_same_view_gives_the_same_status() {
    let scene = Scene::new(vec![pod(0, NodePhase::Ready, REVISION)]);
    let mut old = (*scene.found.cluster).clone();
    let first = scene.status();
    old.status = Some(first.clone());
    assert_eq!(scene.status_after(&old), first);
}

#[test]
fn members_are_limited() {
    let pods = (0..300).map(|slot| pod(slot, NodePhase::Ready, REVISION)).collect();
    let status = Scene::new(pods).status();
    assert_eq!((status.members.len(), status.ready_nodes), (MAX_MEMBERS, 300));
}

#[test]
fn a_refused_pod_names_the_label_and_the_way_out() {
    let message = Refusal::PodSecurity("violates".to_owned()).message("rooms");
    assert!(message.contains(
        "kubectl label namespace rooms --overwrite pod-security.kubernetes.io/enforce=privileged"
    ));
    assert!(message.contains("or create the LiveCluster in a namespace that has the label"));
}

#[test]
fn turn_is_ready_when_every_sidecar_runs() {
    let pod = |started: bool| -> Pod {
        let status = serde_json::json!({"status": {"initContainerStatuses": [{
            "name": turn::CONTAINER, "image": "", "imageID": "", "ready": started,
            "restartCount": 0, "started": started,
        }]}});
        serde_json::from_value(status).unwrap()
    };
    let cases = [
        (vec![], "Unknown"),
        (vec![pod(true), pod(false)], "False"),
        (vec![pod(true), pod(true)], "True"),
    ];
    for (pods, expected) in cases {
        let mut scene = Scene::new(Vec::new());
        scene.found.pods = pods;
        let conditions = scene.status().conditions;
        let found = conditions.iter().find(|c| c.type_ == condition::TURN_READY).unwrap();
        assert_eq!(found.status, expected, "{}", found.message);
    }
    let mut off = Scene::new(Vec::new());
    off.valid.turn = None;
    assert!(off.status().conditions.iter().all(|c| c.type_ != condition::TURN_READY));
}

#[test]
fn a_route_that_cannot_be_made_is_told() {
    let missing = [ForeignKind::TLSRoute].into();
    let scene = Scene { missing, ..Scene::new(vec![pod(0, NodePhase::Ready, REVISION)]) };
    let status = scene.status();
    let found = status.conditions.iter().find(|c| c.type_ == condition::TURN_READY).unwrap();
    assert_eq!((found.status.as_str(), found.reason.as_str()), ("False", "RouteKindMissing"));
    assert!(found.message.contains("TLSRoute"), "{}", found.message);
}

/// The page that people are sent to starts from these.
#[test]
fn a_gateway_or_an_issuer_that_cannot_be_is_told() {
    let told = |kind: ForeignKind, spec: &str| {
        let valid = validate(&with_spec(spec), &images()).unwrap();
        let missing = [kind].into();
        let pods = vec![pod(0, NodePhase::Ready, REVISION)];
        let scene = Scene { missing, valid, ..Scene::new(pods) };
        scene.status()
    };
    let of = |status: &LiveClusterStatus, kind: &str| {
        let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        format!("{} {}", found.status, found.reason)
    };
    let by_gateway = told(ForeignKind::HTTPRoute, "nodes: 1, gateway: {parentRefs: [{name: g}]}");
    assert_eq!(of(&by_gateway, condition::READY), "False GatewayKindMissing");
    assert_eq!(of(&by_gateway, condition::TLS_CONFIGURED), "True Gateway");
    let tls = "nodes: 1, ingress: {tls: {secretName: c, issuerRef: {name: i}}}";
    let by_issuer = told(ForeignKind::Certificate, tls);
    assert_eq!(of(&by_issuer, condition::READY), "True Ready");
    assert_eq!(of(&by_issuer, condition::TLS_CONFIGURED), "False CertificateKindMissing");
}

#[test]
fn every_condition_and_reason_is_on_the_page_for_trouble() {
    let page = include_str!("../../../../docs/troubleshooting.md");
    let conditions = [
        condition::READY,
        condition::AVAILABLE,
        condition::PROGRESSING,
        condition::DEGRADED,
        condition::DRAINING,
        condition::REDIS_REACHABLE,
        condition::ADDRESSES_DISCOVERED,
        condition::TURN_READY,
        condition::TLS_CONFIGURED,
        condition::AUTOSCALING_ACTIVE,
        condition::METRICS_API_AVAILABLE,
    ];
    let reasons = [
        "SecretMissing",
        "SecretEntryMissing",
        "InvalidKeys",
        "InvalidResources",
        "InvalidDrainTimeout",
        "InvalidBehavior",
        "TooFewPorts",
        "PodSecurityForbidsHostPorts",
        "PodsRefused",
        "ObjectRefused",
        "LoadBalancerPending",
        "SlotsExhausted",
        "RedisUnreachable",
        "NodesStarting",
        "NodesReplaced",
        "NoNodeOpen",
        "NodesLeaving",
        "NoAnswer",
        "NotRunning",
        "NoSecret",
        "NodesSilent",
        "RouteKindMissing",
        "GatewayKindMissing",
        "CertificateKindMissing",
        "MetricsAPIUnavailable",
    ];
    for name in conditions.into_iter().chain(reasons) {
        assert!(page.contains(&format!("`{name}`")), "{name} is not on the page");
    }
}
