//! Media nodes that clients reach by Services of their own, or in the network of a Kubernetes node.

use crds::{LiveCluster, names};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use kube::api::{ListParams, Patch, PatchParams};
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
