//! The number of media nodes follows what they tell, on a real API server. Nodes are played by small
//! servers on addresses of this machine's loopback.

use std::net::Ipv4Addr;
use std::sync::Mutex;

use axum::Router;
use axum::routing::get;
use contract::metrics;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use operator::metrics_api::access::{Access as _, Attributes, Reviews};
use operator::metrics_api::front_proxy::User;
use operator::metrics_api::values::{Figures as _, ValueError, Values};
use operator::metrics_api::{Metric, Registration};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::manifests::changed;
use super::*;

/// Port at which the operator asks media nodes.
const ADMIN_PORT: u16 = cluster::build::node::ADMIN_PORT;
/// Each played node has an address of its own, since the port is the same for all.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 0);

/// Specifications that are refused, with the reason.
pub(super) fn bad_specs() -> Vec<(Value, &'static str)> {
    let scaling = |scaling: Value| changed("autoscaling", scaling);
    let rule = |window: &str, period: &str| {
        json!({"mode": "BuiltIn", "behavior": {
            "scaleIn": {"window": window, "nodes": 1, "period": period},
        }})
    };
    let few_ports = json!({"domain": "live.example.com", "node": {"workers": 2},
        "autoscaling": {"mode": "HPA", "maxNodes": 30}, "media": {"ports": {"count": 92}}});
    let full_first = |capacity: &str, target: &str| {
        json!({"domain": "live.example.com", "node": {"capacity": {capacity: 10}},
            "autoscaling": {"mode": "HPA", "loadPercent": 0, target: 10}})
    };
    vec![
        (scaling(json!({"mode": "Magic"})), "supported values: \"None\", \"HPA\", \"BuiltIn\""),
        (
            scaling(json!({"mode": "HPA", "minNodes": 3, "maxNodes": 2})),
            "spec.autoscaling.minNodes must not be above spec.autoscaling.maxNodes",
        ),
        (scaling(json!({"mode": "HPA", "minNodes": 0})), "should be greater than or equal to 1"),
        (scaling(json!({"mode": "HPA", "loadPercent": 96})), "should be less than or equal to 95"),
        (scaling(json!({"mode": "HPA", "loadPercent": 0})), "spec.autoscaling needs a target"),
        (
            scaling(json!({"mode": "BuiltIn", "freeSlots": 5})),
            "spec.autoscaling.freeSlots needs spec.autoscaling.roomsPerNode",
        ),
        (
            scaling(json!({"roomsPerNode": 10})),
            "roomsPerNode and subscribersPerNode need spec.autoscaling.mode HPA or BuiltIn",
        ),
        (scaling(rule("61m", "1m")), "window of spec.autoscaling.behavior must be at most 1h"),
        (scaling(rule("5m", "31m")), "period of spec.autoscaling.behavior must be from 1s to 30m"),
        (scaling(rule("5m", "0s")), "period of spec.autoscaling.behavior must be from 1s to 30m"),
        (scaling(rule("soon", "1m")), "spec.autoscaling.behavior.scaleIn.window"),
        (few_ports, "it must be at least (spec.autoscaling.maxNodes + 1)"),
        (full_first("rooms", "roomsPerNode"), "at most nine tenths of spec.node.capacity.rooms"),
        (
            full_first("subscribers", "subscribersPerNode"),
            "at most nine tenths of spec.node.capacity.subscribers",
        ),
    ]
}

/// A media node that tells how many rooms it has.
struct PlayedNode {
    address: Ipv4Addr,
    rooms: Arc<Mutex<u64>>,
}

impl PlayedNode {
    async fn start() -> Self {
        let rooms = Arc::new(Mutex::new(0));
        let page = Arc::clone(&rooms);
        let page = get(move || {
            let rooms = *page.lock().unwrap();
            std::future::ready(format!(
                "{} {rooms}\n{} 0\n{} 0\n{} 0\n",
                metrics::ROOMS,
                metrics::PARTICIPANTS,
                metrics::SUBSCRIBERS,
                metrics::BUSY,
            ))
        });
        for number in 1..u16::MAX {
            let address = Ipv4Addr::from(u32::from(FIRST_ADDRESS) + u32::from(number));
            let Ok(listener) = TcpListener::bind((address, ADMIN_PORT)).await else { continue };
            let router = Router::new().route("/metrics", page);
            tokio::spawn(async move { axum::serve(listener, router).await });
            return Self { address, rooms };
        }
        panic!("no address of the loopback is free");
    }

    fn tells(&self, rooms: u64) {
        *self.rooms.lock().unwrap() = rooms;
    }

    /// Becomes the media pod of a slot.
    async fn run(&self, scene: &Scene, host: &str, slot: u16) {
        run_pod(scene, host, slot).await;
        let address = self.address.to_string();
        let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
        let (pods, patch) = (scene.api::<Pod>(), Patch::Merge(&status));
        pods.patch_status(&names::node("c", slot), &PatchParams::default(), &patch).await.unwrap();
    }
}

/// Two rooms a node, and no patience with nodes that are not needed.
fn scaling(mode: &str) -> Value {
    json!({
        "mode": mode, "maxNodes": 3, "roomsPerNode": 2, "loadPercent": 0,
        "behavior": {"scaleIn": {"window": "1s", "nodes": 1, "period": "1s"}},
    })
}

async fn set_scaling(scene: &Scene, scaling: &Value) {
    let patch = json!({"spec": {"autoscaling": scaling}});
    let clusters = scene.api::<LiveCluster>();
    clusters.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

fn condition(cluster: &LiveCluster, kind: &str) -> Option<String> {
    let status = cluster.status.as_ref()?;
    let found = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some(format!("{}/{}", found.status, found.reason))
}

/// Reconciles until the LiveCluster is as expected: where another operator is at work, one look is
/// not enough.
async fn becomes(scene: &Scene, what: &str, expected: impl Fn(&LiveCluster) -> bool) {
    let mut found = None;
    for _ in 0..MAX_LOOKS {
        let cluster = Arc::new(scene.api::<LiveCluster>().get("c").await.unwrap());
        // What another operator was faster with is seen at the next look.
        let _ = cluster::reconcile(&cluster, &scene.context).await;
        let cluster = scene.api::<LiveCluster>().get("c").await.unwrap();
        if expected(&cluster) {
            return;
        }
        found = Some((cluster.spec.nodes, cluster.status));
        // Counts are read again at most every two seconds.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("after {MAX_LOOKS} looks not {what}: {found:?}");
}

fn is_scaled(cluster: &LiveCluster, nodes: u16, reason: &str) -> bool {
    let status = cluster.status.as_ref().and_then(|status| status.autoscaling.as_ref());
    cluster.spec.nodes == nodes
        && status.is_some_and(|status| status.reason == reason)
        && condition(cluster, "AutoscalingActive").as_deref() == Some("True/BuiltIn")
}

/// Reconciles until Kubernetes is shown that the first pod has rooms, or none.
async fn first_pod_is_marked(scene: &Scene, occupied: bool) {
    let mut found = (false, None);
    for _ in 0..MAX_LOOKS {
        scene.reconcile().await;
        let pod = scene.api::<Pod>().get(&names::node("c", 0)).await.unwrap();
        let is_marked = pod.labels().get(names::OCCUPIED).is_some_and(|value| value == "true");
        found = (is_marked, pod.annotations().get(names::SAFE_TO_EVICT).cloned());
        if found == (occupied, Some((!occupied).to_string())) {
            return;
        }
    }
    panic!("after {MAX_LOOKS} looks the first pod is marked as {found:?}");
}

#[tokio::test]
async fn the_operator_adds_nodes_for_rooms_and_takes_them_away_without() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "builtin").await;
    scene.change(1, "example.invalid/sfu:1").await;
    scene.settles_to(&[node(0, "example.invalid/sfu:1")]).await;
    let (host, played) = (start_host(&scene).await, PlayedNode::start().await);
    played.run(&scene, &host, 0).await;
    set_scaling(&scene, &scaling("BuiltIn")).await;
    becomes(&scene, "one node", |c| is_scaled(c, 1, "0 nodes for 0 rooms")).await;

    played.tells(5);
    becomes(&scene, "three nodes", |c| is_scaled(c, 3, "3 nodes for 5 rooms")).await;
    let image = "example.invalid/sfu:1";
    scene.settles_to(&[node(0, image), node(1, image), node(2, image)]).await;
    first_pod_is_marked(&scene, true).await;

    // What the metrics API would tell.
    let values = Values::new(scene.client.clone(), watch_hosts(scene.client.clone()));
    let rooms = values.value(&scene.namespace, "c", Metric::Rooms).await.unwrap();
    assert_eq!(rooms.quantity, "5");
    let other = values.value(&scene.namespace, "other", Metric::Rooms).await;
    assert!(matches!(other, Err(ValueError::NotFound { .. })), "{other:?}");

    played.tells(0);
    becomes(&scene, "one node again", |c| is_scaled(c, 1, "0 nodes for 0 rooms")).await;
    scene.settles_to(&[node(0, image)]).await;
    first_pod_is_marked(&scene, false).await;
    remove_host(&scene, &host).await;
    scene.remove().await;
}

#[tokio::test]
async fn a_silent_node_sends_nobody_away() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "silent").await;
    let image = "example.invalid/sfu:1";
    scene.settles_to(&[node(0, image), node(1, image)]).await;
    let host = start_host(&scene).await;
    for slot in [0, 1] {
        run_pod(&scene, &host, slot).await;
    }
    // Until a pod takes traffic it is known to be empty.
    states_become(&scene, ["open", "open"]).await;
    set_scaling(&scene, &scaling("BuiltIn")).await;
    for _ in 0..5 {
        let cluster = scene.reconcile().await;
        assert_eq!(cluster.spec.nodes, 2);
        assert_eq!(condition(&cluster, "AutoscalingActive").as_deref(), Some("False/NodesSilent"));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let values = Values::new(scene.client.clone(), watch_hosts(scene.client.clone()));
    let rooms = values.value(&scene.namespace, "c", Metric::Rooms).await;
    assert!(matches!(rooms, Err(ValueError::Incomplete { .. })), "{rooms:?}");
    remove_host(&scene, &host).await;
    scene.remove().await;
}

/// Reconciles by operators that know nothing but this of the metrics API, until the condition and
/// the HorizontalPodAutoscaler are as expected.
async fn registration_leads_to(
    scene: &mut Scene,
    registration: &Registration,
    expected: &str,
    autoscaled: bool,
) -> Option<HorizontalPodAutoscaler> {
    let mut found = (None, None);
    for _ in 0..MAX_LOOKS {
        scene.context = context(&scene.client);
        scene.context.metrics_api = watch::channel(registration.clone()).1;
        let cluster = Arc::new(scene.api::<LiveCluster>().get("c").await.unwrap());
        let _ = cluster::reconcile(&cluster, &scene.context).await;
        let autoscalers = scene.api::<HorizontalPodAutoscaler>();
        let autoscaler = autoscalers.get_opt(&names::autoscaler("c")).await.unwrap();
        let cluster = scene.api::<LiveCluster>().get("c").await.unwrap();
        let told = condition(&cluster, "MetricsAPIAvailable");
        if told.as_deref() == Some(expected) && autoscaler.is_some() == autoscaled {
            return autoscaler;
        }
        found = (told, autoscaler);
    }
    panic!("after {MAX_LOOKS} looks not {expected}: {found:?}");
}

#[tokio::test]
async fn an_autoscaler_of_kubernetes_is_made_and_goes_when_the_metrics_api_is_anothers() {
    let Some(client) = client().await else { return };
    let mut scene = Scene::new(client, "hpa").await;
    set_scaling(&scene, &scaling("HPA")).await;
    let ours = Registration::Ours { available: true, message: String::new() };
    let autoscaler = registration_leads_to(&mut scene, &ours, "True/Registered", true).await;
    let spec = autoscaler.unwrap().spec;
    assert_eq!(spec.scale_target_ref.kind, "LiveCluster");
    let metrics = spec.metrics.unwrap();
    let metric = metrics[0].object.as_ref().unwrap();
    assert_eq!((metrics.len(), metric.metric.name.as_str()), (1, "rooms"));
    assert_eq!(metric.target.average_value.as_ref().unwrap().0, "2");
    scene.api::<PodDisruptionBudget>().get(&names::occupied_budget("c")).await.unwrap();

    let foreign = Registration::Foreign { service: "the Service monitoring/adapter".to_owned() };
    registration_leads_to(&mut scene, &foreign, "False/OwnedByOther", false).await;
    let events = scene.api::<Event>().list(&ListParams::default()).await.unwrap();
    assert!(events.items.iter().any(|event| event.reason.as_deref() == Some("OwnedByOther")));
    registration_leads_to(&mut scene, &ours, "True/Registered", true).await;

    set_scaling(&scene, &json!({"mode": "None", "roomsPerNode": null})).await;
    becomes(&scene, "without autoscaling", |cluster| {
        condition(cluster, "AutoscalingActive").is_none()
            && cluster.status.as_ref().is_some_and(|status| status.autoscaling.is_none())
    })
    .await;
    scene.remove().await;
}

#[tokio::test]
async fn the_number_of_nodes_belongs_to_the_autoscaler() {
    let Some(client) = client().await else { return };
    let scene = Scene::new(client, "owner").await;
    set_scaling(&scene, &scaling("BuiltIn")).await;
    let clusters = scene.api::<LiveCluster>();
    let change = async |spec: Value| {
        let patch = json!({"spec": spec});
        clusters.patch("c", &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    let scale = async |nodes: u16| {
        let patch = json!({"spec": {"replicas": nodes}});
        clusters.patch_scale("c", &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    let refused = change(json!({"nodes": 4})).await.unwrap_err().to_string();
    assert!(refused.contains("spec.nodes belongs to the autoscaler"), "{refused}");
    let refused = scale(4).await.unwrap_err().to_string();
    assert!(refused.contains("spec.nodes belongs to the autoscaler"), "{refused}");
    scale(3).await.unwrap();
    // Bounds may be moved past the number: the autoscaler follows. Who takes the number out of a
    // manifest asks for the default.
    change(json!({"autoscaling": {"maxNodes": 2}})).await.unwrap();
    change(json!({"autoscaling": {"minNodes": 3, "maxNodes": 3}})).await.unwrap();
    change(json!({"nodes": null})).await.unwrap();
    change(json!({"nodes": 7, "autoscaling": {"mode": "None", "roomsPerNode": null}}))
        .await
        .unwrap();
    scene.remove().await;
}

#[tokio::test]
async fn the_api_server_says_who_may_read_metrics() {
    let Some(client) = client().await else { return };
    let reviews = Reviews::new(client);
    let user = |name: &str, groups: &[&str]| User {
        name: name.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        extra: [("example.com/pod".to_owned(), vec!["p".to_owned()])].into(),
    };
    let asked = Attributes {
        namespace: "default".to_owned(),
        resource: "liveclusters.livecluster.dev".to_owned(),
        name: "demo".to_owned(),
        metric: "rooms".to_owned(),
    };
    let authenticated = "system:authenticated";
    let autoscaler = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
    let cases = [
        (user(autoscaler, &["system:serviceaccounts", authenticated]), true),
        (user("anna", &[authenticated]), false),
        (user("system:kube-aggregator", &[]), false),
        (user("root", &["system:masters"]), true),
    ];
    for (user, expected) in cases {
        let allowed = reviews.allows(&user, &asked).await.unwrap();
        assert_eq!(allowed, expected, "{user:?}");
    }
}
