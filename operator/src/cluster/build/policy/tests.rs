//! What the policies mean: their rules are evaluated for pods of the cluster and for others.

use std::collections::BTreeMap;

use contract::sfu_config::SfuConfig;
use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};

use super::*;
use crate::cluster::build::{NodeTemplate, build, tests as built};
use crate::cluster::validate::tests::{images, with_spec};
use crate::cluster::validate::validate;

type Labels = BTreeMap<String, String>;

/// One end of a connection.
#[derive(Debug, Clone)]
enum End {
    /// An address outside, or a Kubernetes node: no selector names it.
    World,
    /// A pod: whether it is in the cluster's namespace, and its labels.
    Pod { is_near: bool, labels: Labels },
}

/// Policies of one namespace, read as the Kubernetes API documents them.
struct Network(Vec<NetworkPolicySpec>);

impl Network {
    fn of(valid: &ValidCluster) -> Self {
        Self(policies(valid).into_iter().filter_map(|policy| policy.spec).collect())
    }

    /// Both ends must agree, each where it is isolated.
    fn allows(&self, from: &End, to: &End, protocol: &str, port: u16) -> bool {
        let matches = |peers: &Peers, other: &End, ports: &Option<Vec<NetworkPolicyPort>>| {
            peers.as_ref().is_none_or(|peers| peers.iter().any(|peer| is_peer(peer, other)))
                && ports
                    .as_ref()
                    .is_none_or(|ports| ports.iter().any(|rule| is_port(rule, protocol, port)))
        };
        let out = self.isolating(from, "Egress").is_none_or(|policies| {
            let rules = policies.iter().flat_map(|policy| policy.egress.iter().flatten());
            rules.into_iter().any(|rule| matches(&rule.to, to, &rule.ports))
        });
        let into = self.isolating(to, "Ingress").is_none_or(|policies| {
            let rules = policies.iter().flat_map(|policy| policy.ingress.iter().flatten());
            rules.into_iter().any(|rule| matches(&rule.from, from, &rule.ports))
        });
        out && into
    }

    /// The policies that isolate an end in a direction; `None` where none does.
    fn isolating(&self, end: &End, direction: &str) -> Option<Vec<&NetworkPolicySpec>> {
        let End::Pod { is_near: true, labels } = end else { return None };
        let isolates = |policy: &&NetworkPolicySpec| {
            is_selected(policy.pod_selector.as_ref().unwrap(), labels)
                && policy.policy_types.iter().flatten().any(|kind| kind == direction)
        };
        let found: Vec<_> = self.0.iter().filter(isolates).collect();
        (!found.is_empty()).then_some(found)
    }
}

fn is_selected(selector: &LabelSelector, labels: &Labels) -> bool {
    assert_eq!(selector.match_expressions, None, "the evaluator knows none");
    selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value))
}

fn is_peer(peer: &NetworkPolicyPeer, end: &End) -> bool {
    assert_eq!(peer.ip_block, None, "the evaluator knows none");
    let End::Pod { is_near, labels } = end else { return false };
    let in_namespace = match &peer.namespace_selector {
        Some(selector) => {
            assert_eq!(*selector, LabelSelector::default(), "the evaluator knows all namespaces");
            true
        }
        None => *is_near,
    };
    in_namespace && peer.pod_selector.as_ref().is_none_or(|pods| is_selected(pods, labels))
}

fn is_port(rule: &NetworkPolicyPort, protocol: &str, port: u16) -> bool {
    let first = match &rule.port {
        Some(IntOrString::Int(first)) => *first,
        Some(IntOrString::String(name)) => panic!("{name}: sidecars have no named ports"),
        None => return rule.protocol.as_deref() == Some(protocol),
    };
    let last = rule.end_port.unwrap_or(first);
    rule.protocol.as_deref() == Some(protocol) && (first..=last).contains(&port.into())
}

fn valid(spec: &str) -> ValidCluster {
    let mut found = with_spec(spec);
    found.turn_tls = Some(built::certificate());
    validate(&found, &images()).unwrap()
}

fn pod(valid: &ValidCluster, slot: u16) -> (Labels, PodSpec) {
    let pod = NodeTemplate::new(valid).pod(slot, "r");
    (pod.metadata.labels.unwrap(), pod.spec.unwrap())
}

/// A media node as it is built.
fn media_node(valid: &ValidCluster) -> End {
    End::Pod { is_near: true, labels: pod(valid, 0).0 }
}

/// The managed Redis as it is built.
fn redis_pod(valid: &ValidCluster) -> (Labels, PodSpec) {
    let resources = build(valid, &built::material(valid)).unwrap();
    let set = resources.stateful_sets.into_iter().next().unwrap();
    let template = set.spec.unwrap().template;
    (template.metadata.unwrap().labels.unwrap(), template.spec.unwrap())
}

fn redis(valid: &ValidCluster) -> End {
    End::Pod { is_near: true, labels: redis_pod(valid).0 }
}

/// A pod of the same namespace that has nothing to do with the cluster.
fn neighbour() -> End {
    End::Pod { is_near: true, labels: Labels::from([("app".to_owned(), "shop".to_owned())]) }
}

/// A pod of another namespace, such as Prometheus or the operator.
fn far_pod() -> End {
    End::Pod { is_near: false, labels: Labels::new() }
}

/// A media node of the LiveCluster of the same name in another namespace.
fn namesake(valid: &ValidCluster) -> End {
    End::Pod { is_near: false, labels: pod(valid, 0).0 }
}

/// A media node of another LiveCluster in the same namespace.
fn other_cluster(valid: &ValidCluster) -> End {
    let mut labels = pod(valid, 0).0;
    labels.insert(names::CLUSTER.to_owned(), "other".to_owned());
    End::Pod { is_near: true, labels }
}

/// Port 443 is the only one that clients need.
const BY_TLS: &str = "media: {exposure: TurnOnly}, turn: {udp: false, tcp: false, tls: {domain: \
                      turn.example.com, secretName: c}}";
const SPECS: [&str; 10] = [
    "nodes: 2",
    "node: {workers: 3}, media: {ports: {first: 50000, count: 100}}",
    "media: {tcp: false}, turn: {tcp: false}",
    "turn: {enabled: false}",
    "turn: {port: 3000}",
    "media: {exposure: TurnOnly}",
    "media: {exposure: LoadBalancer}, turn: {port: 3478}",
    "media: {exposure: NodePort, ports: {first: 30000}}",
    BY_TLS,
    "nodes: 4, media: {exposure: TurnOnly}, turn: {udp: false, port: 3000}",
];

/// Who must be able to use a port, by the name that it has in the pod.
fn users(valid: &ValidCluster, name: &str) -> Vec<End> {
    match name {
        "http" | "turn" | "turn-tcp" | "turn-tls" | "turn-host" | "turn-host-tcp" => {
            vec![End::World, far_pod(), neighbour()]
        }
        "admin" | "turn-admin" => vec![far_pod(), neighbour()],
        "peer" | "redis" => vec![media_node(valid)],
        name if name.starts_with("media-") => {
            // A TURN server sends what it relays.
            let mut users: Vec<_> = valid.turn.iter().map(|_| media_node(valid)).collect();
            users.extend(valid.media_config().direct.then_some(End::World));
            users
        }
        name => panic!("who uses the port {name}?"),
    }
}

#[test]
fn every_port_that_a_pod_listens_on_is_open_to_those_who_use_it() {
    for spec in SPECS {
        let valid = valid(spec);
        let network = Network::of(&valid);
        let nodes = (0..valid.slots).map(|slot| pod(&valid, slot));
        for (labels, pod) in nodes.chain([redis_pod(&valid)]) {
            let to = End::Pod { is_near: true, labels };
            let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
            for port in containers.flat_map(|container| container.ports.iter().flatten()) {
                let ContainerPort { name, protocol, container_port, .. } = port;
                let (name, protocol) = (name.as_deref().unwrap(), protocol.as_deref().unwrap());
                let number = u16::try_from(*container_port).unwrap();
                for from in users(&valid, name) {
                    let allowed = network.allows(&from, &to, protocol, number);
                    assert!(allowed, "{spec}: {name} {number}/{protocol} from {from:?}");
                }
            }
        }
    }
}

#[test]
fn what_the_programs_are_told_to_listen_on_is_open() {
    for spec in SPECS {
        let valid = valid(spec);
        let (network, node) = (Network::of(&valid), media_node(&valid));
        let files = config::files(&valid).unwrap();
        let sfu = SfuConfig::from_yaml(&files[config::CONFIG]).unwrap();
        assert!(network.allows(&End::World, &node, "TCP", sfu.http.port), "{spec}");
        assert!(network.allows(&far_pod(), &node, "TCP", sfu.admin.port), "{spec}");
        assert!(network.allows(&node, &node, "TCP", sfu.peer.unwrap().port), "{spec}");
        if valid.turn.is_none() {
            continue;
        }
        let turn = turn::turn_config(&valid).unwrap();
        for (protocol, addresses) in
            [("UDP", turn.listen.udp), ("TCP", turn.listen.tcp), ("TCP", turn.listen.tls)]
        {
            for address in addresses {
                assert!(network.allows(&End::World, &node, protocol, address.port()), "{spec}");
            }
        }
        assert!(network.allows(&far_pod(), &node, "TCP", turn.admin.listen.port()), "{spec}");
        // From a relay to a media port, and back.
        for port in [turn.relay.ports.first, turn.relay.ports.last] {
            assert!(network.allows(&node, &node, "UDP", port), "{spec}: relay {port}");
            assert!(!network.allows(&neighbour(), &node, "UDP", port), "{spec}: relay {port}");
        }
    }
}

#[test]
fn nothing_else_gets_in() {
    let by_default = valid("nodes: 2");
    let by_turn = valid(BY_TLS);
    let without_tcp = valid("media: {tcp: false}");
    let (media, relay) = (20_000, 60_000);
    for (valid, from, protocol, port, about) in [
        (&by_default, End::World, "TCP", 9600, "administration from outside"),
        (&by_default, End::World, "TCP", 9601, "administration of TURN from outside"),
        (&by_default, End::World, "TCP", 7890, "pod to pod from outside"),
        (&by_default, neighbour(), "TCP", 7890, "pod to pod from another pod"),
        (&by_default, far_pod(), "TCP", 7890, "pod to pod from another namespace"),
        (&by_default, namesake(&by_default), "TCP", 7890, "the same name elsewhere"),
        (&by_default, other_cluster(&by_default), "TCP", 7890, "another LiveCluster"),
        (&by_default, redis(&by_default), "TCP", 7890, "Redis"),
        (&by_default, redis(&by_default), "TCP", 7880, "Redis connects to nobody"),
        (&by_default, End::World, "UDP", relay, "a relay from outside"),
        (&by_default, End::World, "TCP", 5349, "TLS that nobody asked for"),
        (&by_default, End::World, "UDP", 7880, "another protocol"),
        (&by_default, End::World, "TCP", 19_999, "below the media ports"),
        (&by_default, End::World, "UDP", 21_000, "above the media ports"),
        (&by_default, End::World, "TCP", 22, "anything"),
        (&without_tcp, End::World, "TCP", media, "media by TCP that nobody asked for"),
        (&by_turn, End::World, "UDP", media, "media where TURN is the only way in"),
        (&by_turn, neighbour(), "UDP", media, "media from another pod, the same"),
        (&by_turn, End::World, "UDP", 3478, "TURN by UDP that is off"),
    ] {
        let network = Network::of(valid);
        assert!(!network.allows(&from, &media_node(valid), protocol, port), "{about}");
    }
    assert!(Network::of(&by_turn).allows(
        &media_node(&by_turn),
        &media_node(&by_turn),
        "UDP",
        media
    ));
}

#[test]
fn redis_is_for_the_media_nodes_of_its_cluster_alone() {
    let valid = valid("nodes: 2");
    let (network, to) = (Network::of(&valid), redis(&valid));
    assert!(network.allows(&media_node(&valid), &to, "TCP", 6379));
    assert!(!network.allows(&media_node(&valid), &to, "TCP", 22));
    for from in
        [End::World, neighbour(), far_pod(), namesake(&valid), other_cluster(&valid), to.clone()]
    {
        assert!(!network.allows(&from, &to, "TCP", 6379), "{from:?}");
    }
}

#[test]
fn pods_go_where_they_must_and_nowhere_else() {
    const EXTERNAL: &str = "redis: {external: {addresses: ['redis.example.com:6380']}}";
    const SENTINELS: &str = "redis: {external: {mode: Sentinel, addresses: ['a:26379'], \
                             masterName: live}}";
    const SHARDS: &str = "redis: {external: {mode: Cluster, addresses: ['a:6379', 'b:6379']}}";
    const WEBHOOKS: &str = "webhooks: {urls: ['https://a.example.com/w', 'http://b:8080/w', \
                            'http://c.example.com']}";
    let to_world = [
        // DNS servers.
        ("nodes: 2", "UDP", 53, true),
        ("nodes: 2", "TCP", 53, true),
        (BY_TLS, "UDP", 5353, true),
        // Clients' ports.
        ("nodes: 2", "UDP", 40_000, true),
        ("media: {exposure: TurnOnly}", "UDP", 40_000, true),
        (BY_TLS, "UDP", 40_000, false),
        // Nothing else without a reason.
        ("nodes: 2", "TCP", 443, false),
        ("nodes: 2", "TCP", 6443, false),
        ("nodes: 2", "TCP", 6379, false),
        (WEBHOOKS, "TCP", 443, true),
        (WEBHOOKS, "TCP", 8080, true),
        (WEBHOOKS, "TCP", 80, true),
        (WEBHOOKS, "TCP", 8443, false),
        (EXTERNAL, "TCP", 6380, true),
        (EXTERNAL, "TCP", 6379, false),
        (SENTINELS, "TCP", 26_379, true),
        (SENTINELS, "TCP", 7001, true),
        (SHARDS, "TCP", 7001, true),
    ];
    for (spec, protocol, port, expected) in to_world {
        let valid = valid(spec);
        let network = Network::of(&valid);
        let found = network.allows(&media_node(&valid), &End::World, protocol, port);
        assert_eq!(found, expected, "{spec}: {port}/{protocol}");
    }
    // A Service on port 80 may lead to port 8888 of its pods.
    for (spec, expected) in [(WEBHOOKS, true), (EXTERNAL, true), ("nodes: 2", false)] {
        let valid = valid(spec);
        let network = Network::of(&valid);
        let found = network.allows(&media_node(&valid), &far_pod(), "TCP", 8888);
        assert_eq!(found, expected, "{spec}");
    }
    let valid = valid("nodes: 2");
    let network = Network::of(&valid);
    for (protocol, port) in [("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 6379)] {
        assert!(!network.allows(&redis(&valid), &End::World, protocol, port), "Redis: {port}");
    }
}

#[test]
fn a_media_node_reaches_the_media_ports_of_every_other() {
    for spec in ["nodes: 2", BY_TLS] {
        let valid = valid(spec);
        let (network, node) = (Network::of(&valid), media_node(&valid));
        let media = valid.media_config();
        let last = valid.slots - 1;
        for slot in [0, last] {
            let by_tcp = media.tcp_port(slot).unwrap();
            let by_udp = media.udp_port(slot, media.workers - 1).unwrap();
            assert!(network.allows(&node, &node, "TCP", by_tcp), "{spec}: {by_tcp}");
            assert!(network.allows(&node, &node, "UDP", by_udp), "{spec}: {by_udp}");
        }
    }
}

#[test]
fn nothing_is_made_where_nothing_is_wanted() {
    assert_eq!(policies(&valid("networkPolicy: {enabled: false}")), []);
    let external = valid("redis: {external: {addresses: ['r:6379']}}");
    assert_eq!(policies(&external).len(), 1, "a Redis of somebody else is theirs");
}
