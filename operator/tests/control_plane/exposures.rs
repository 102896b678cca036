//! Ways in: media nodes that clients reach by Services of their own or in the network of a Kubernetes
//! node, and kinds of other programs.

use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt as _};
use operator::cluster::build::ForeignKind;
use serde_json::{Value, json};

use super::faults::Faults;
use super::normal;
use super::plane;
use super::world::World;

fn spec(nodes: u16, media: Value) -> Value {
    json!({"domain": "live.example.com", "nodes": nodes, "media": media})
}

/// Names of the Services for media.
async fn services(world: &World) -> Vec<String> {
    let list = ListParams::default().labels(names::SLOT);
    let found = world.api::<Service>().list(&list).await.unwrap();
    found.iter().map(|service| service.name_any()).collect()
}

/// Plays whoever makes load balancers.
async fn balance(world: &World, name: &str, address: &str) {
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
    let params = PatchParams::default();
    let patch = Patch::Merge(&status);
    world.api::<Service>().patch_status(name, &params, &patch).await.unwrap();
}

async fn told(world: &World, slot: u16) -> Option<String> {
    let pod = world.api::<Pod>().get(&names::node("c", slot)).await.unwrap();
    pod.annotations().get(names::ADVERTISE_ADDRESSES).cloned()
}

/// The reason of a condition.
async fn reason(world: &World, kind: &str) -> String {
    let status = world.api::<LiveCluster>().get("c").await.unwrap().status.unwrap();
    status.conditions.into_iter().find(|c| c.type_ == kind).unwrap().reason
}

#[tokio::test]
async fn a_node_takes_traffic_when_its_load_balancer_has_an_address() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "balanced").await;
    world.apply(&spec(2, json!({"exposure": "LoadBalancer"}))).await.unwrap();
    world.comes_to_rest().await;
    assert_eq!(services(&world).await, ["c-media-0", "c-media-1"]);
    assert_eq!(reason(&world, "AddressesDiscovered").await, "LoadBalancerPending");
    assert_eq!((told(&world, 0).await, told(&world, 1).await), (None, None));
    balance(&world, "c-media-0", "203.0.113.10").await;
    balance(&world, "c-media-1", "2001:db8::11").await;
    world.comes_to_rest().await;
    assert_eq!(told(&world, 0).await.as_deref(), Some("203.0.113.10"));
    assert_eq!(told(&world, 1).await.as_deref(), Some("2001:db8::11"));
    assert_eq!(reason(&world, "AddressesDiscovered").await, "NodeAddresses");
    // Another address is told as well.
    balance(&world, "c-media-0", "203.0.113.20").await;
    world.comes_to_rest().await;
    assert_eq!(told(&world, 0).await.as_deref(), Some("203.0.113.20"));
    // A node that still has rooms keeps its load balancer.
    world.set_rooms(0, 2);
    world.set_rooms(1, 1);
    world.apply(&spec(1, json!({"exposure": "LoadBalancer"}))).await.unwrap();
    let operator = world.operator(&Faults::none());
    for _ in 0..2 {
        world.look(&operator).await.unwrap();
    }
    let left = world.pods().await.len();
    assert_eq!((left, services(&world).await.len()), (2, 2));
    world.set_rooms(1, 0);
    world.comes_to_rest().await;
    assert_eq!((world.pods().await.len(), services(&world).await.len()), (1, 1));
    world.remove().await;
}

#[tokio::test]
async fn node_ports_are_those_of_media_and_others_are_refused_by_name() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "nodeports").await;
    world.apply(&spec(1, json!({"exposure": "NodePort"}))).await.unwrap();
    let operator = world.operator(&Faults::none());
    let refused = world.look(&operator).await;
    assert!(refused.is_err());
    assert_eq!(reason(&world, "Degraded").await, "ObjectRefused");
    let status = world.api::<LiveCluster>().get("c").await.unwrap().status.unwrap();
    let message = status.conditions.into_iter().find(|c| c.type_ == "Degraded").unwrap().message;
    assert!(message.contains("c-media-0") && message.contains("30000-32767"), "{message}");

    let ports = json!({"exposure": "NodePort", "ports": {"first": 30000, "count": 80}});
    world.apply(&spec(1, ports)).await.unwrap();
    world.comes_to_rest().await;
    let service = world.api::<Service>().get("c-media-0").await.unwrap();
    let found = service.spec.unwrap().ports.unwrap();
    assert!(found.iter().all(|port| port.node_port == Some(port.port)), "{found:?}");
    assert_eq!(told(&world, 0).await.as_deref(), Some("192.0.2.1"));
    let host_ports = world.pods().await.into_iter().flat_map(|pod| pod.spec.unwrap().containers);
    let mut host_ports = host_ports.flat_map(|c| c.ports.unwrap()).filter_map(|p| p.host_port);
    assert_eq!(host_ports.next(), None);
    world.remove().await;
}

#[tokio::test]
async fn a_node_in_the_network_of_its_kubernetes_node_is_what_the_api_server_takes() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "hostnetwork").await;
    world.apply(&spec(1, json!({"exposure": "HostNetwork"}))).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(found["Pod c-node-0"]["spec"]["hostNetwork"], true);
    assert_eq!(found["LiveCluster c"]["status"]["readyNodes"], 1);
    assert!(!found.contains_key("NetworkPolicy c-node"), "{:?}", found.keys());
    // And back, to the same as ever.
    world.apply(&spec(1, json!({"exposure": "HostPort"}))).await.unwrap();
    world.comes_to_rest().await;
    let found = normal::objects(&world.client, &world.namespace).await;
    assert!(found.contains_key("NetworkPolicy c-node"), "{:?}", found.keys());
    world.remove().await;
}

/// Installs a definition as far as our objects need it.
async fn define(world: &World, kind: ForeignKind) {
    let resource = kind.resource(kind.versions()[0]);
    let name = format!("{}.{}", resource.plural, resource.group);
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "annotations": {
            "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2997",
        }},
        "spec": {
            "group": resource.group,
            "names": {"kind": resource.kind, "plural": resource.plural},
            "scope": "Namespaced",
            "versions": [{"name": resource.version, "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                }}},
            }}],
        },
    });
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let params = PatchParams::apply("operator-test");
    definitions.patch(&name, &params, &Patch::Apply(&definition)).await.unwrap();
    await_condition(definitions, &name, is_crd_established()).await.unwrap();
}

/// The `spec` of an object of another's kind, which belongs to the LiveCluster.
async fn foreign(world: &World, kind: ForeignKind, name: &str) -> Option<Value> {
    let resource = kind.resource(kind.versions()[0]);
    let api: Api<DynamicObject> =
        Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    let object = api.get_opt(name).await.unwrap()?;
    let owner = world.api::<LiveCluster>().get("c").await.unwrap().uid().unwrap();
    assert_eq!(object.owner_references()[0].uid, owner, "{name}");
    Some(object.data["spec"].clone())
}

#[tokio::test]
async fn a_gateway_and_an_issuer_are_used_once_their_kinds_are_there() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "gateway").await;
    let by_gateway = json!({"domain": "live.example.com", "nodes": 1,
        "gateway": {"parentRefs": [{"name": "public"}]}});
    world.apply(&by_gateway).await.unwrap();
    world.comes_to_rest().await;
    assert_eq!(reason(&world, "Ready").await, "GatewayKindMissing");
    for kind in [ForeignKind::HTTPRoute, ForeignKind::Certificate] {
        define(&world, kind).await;
    }
    let found = world.comes_to_rest().await;
    assert!(!found.contains_key("Ingress c-signalling"), "{:?}", found.keys());
    assert_ne!(reason(&world, "Ready").await, "GatewayKindMissing");
    assert_eq!(found["LiveCluster c"]["status"]["url"], "https://live.example.com");
    let route = foreign(&world, ForeignKind::HTTPRoute, "c-signalling").await.unwrap();
    assert_eq!(route["hostnames"], json!(["live.example.com"]));

    let by_issuer = json!({"domain": "live.example.com", "nodes": 1,
        "ingress": {"tls": {"secretName": "tls", "issuerRef": {"name": "ours"}}}});
    world.apply(&by_issuer).await.unwrap();
    let found = world.comes_to_rest().await;
    assert!(found.contains_key("Ingress c-signalling"), "{:?}", found.keys());
    assert_eq!(foreign(&world, ForeignKind::HTTPRoute, "c-signalling").await, None);
    let certificate = foreign(&world, ForeignKind::Certificate, "c-domain").await.unwrap();
    assert_eq!(certificate["secretName"], "tls");
    assert_eq!(certificate["issuerRef"]["name"], "ours");
    world.apply(&spec(1, json!({}))).await.unwrap();
    world.comes_to_rest().await;
    assert_eq!(foreign(&world, ForeignKind::Certificate, "c-domain").await, None);
    world.remove().await;
}

#[tokio::test]
async fn routes_of_turn_are_made_where_their_kind_is_there_and_told_where_not() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "routes").await;
    let certificate = json!({"metadata": {"name": "turn-tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": "certificate", "tls.key": "key"}});
    let certificate = serde_json::from_value(certificate).unwrap();
    world.api::<Secret>().create(&PostParams::default(), &certificate).await.unwrap();
    let routed = |route: Value| {
        let mut spec = spec(1, json!({}));
        spec["turn"] = json!({"tls": {
            "domain": "turn.example.com", "secretName": "turn-tls", "route": route,
        }});
        spec
    };
    define(&world, ForeignKind::IngressRouteTCP).await;
    let by_traefik = json!({"kind": "IngressRouteTCP", "perNode": true});
    world.apply(&routed(by_traefik)).await.unwrap();
    let found = world.comes_to_rest().await;
    assert!(found.contains_key("Service c-turn-1"), "{:?}", found.keys());
    assert_ne!(reason(&world, "TurnReady").await, "RouteKindMissing");
    let route = foreign(&world, ForeignKind::IngressRouteTCP, "c-turn").await.unwrap();
    assert_eq!(route["tls"]["passthrough"], true);
    assert_eq!(route["routes"].as_array().unwrap().len(), 3);

    // A gateway in place of it, of a kind that nobody has defined yet.
    let by_gateway = json!({"kind": "TLSRoute", "parentRefs": [{"name": "g"}]});
    world.apply(&routed(by_gateway)).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(reason(&world, "TurnReady").await, "RouteKindMissing");
    assert_eq!(foreign(&world, ForeignKind::IngressRouteTCP, "c-turn").await, None);
    assert!(!found.contains_key("Service c-turn-1"), "{:?}", found.keys());
    assert!(found.contains_key("Service c-turn"), "{:?}", found.keys());
    define(&world, ForeignKind::TLSRoute).await;
    world.comes_to_rest().await;
    assert_ne!(reason(&world, "TurnReady").await, "RouteKindMissing");
    let route = foreign(&world, ForeignKind::TLSRoute, "c-turn").await.unwrap();
    assert_eq!(route["hostnames"], json!(["turn.example.com"]));

    world.apply(&spec(1, json!({}))).await.unwrap();
    world.comes_to_rest().await;
    assert_eq!(foreign(&world, ForeignKind::TLSRoute, "c-turn").await, None);
    world.remove().await;
}
