//! What people and Kubernetes do to a LiveCluster, and what must come of it.

use std::time::{Duration, Instant};

use crds::names;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, EvictParams, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::faults::{Faults, steps};
use super::normal::{Objects, difference};
use super::plane;
use super::world::World;

/// Longest wait for a controller, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);

fn spec(nodes: u16) -> Value {
    json!({"domain": "live.example.com", "nodes": nodes})
}

fn placements(pods: &[Pod]) -> Vec<String> {
    let placement = |pod: &Pod| pod.labels().get(names::PLACEMENT).cloned().unwrap_or_default();
    pods.iter().map(placement).collect()
}

#[tokio::test]
async fn the_emptiest_leave_and_come_back_when_they_are_wanted_again() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "fewer").await;
    for (slot, rooms) in [(0, 4), (1, 0), (2, 2), (3, 9), (4, 1)] {
        world.set_rooms(slot, rooms);
    }
    world.apply(&spec(5)).await.unwrap();
    world.comes_to_rest().await;
    let before = world.pods().await;
    world.apply(&spec(3)).await.unwrap();
    let operator = world.operator(&Faults::none());
    world.look(&operator).await.unwrap();
    // At once, whatever the nodes that leave still do.
    let pods = world.pods().await;
    assert_eq!(placements(&pods), ["open", "cordoned", "open", "open", "cordoned"]);
    let found = world.look(&operator).await.unwrap().unwrap();
    let status = found.status.unwrap();
    assert_eq!((status.nodes, status.ready_nodes, status.draining_nodes), (3, 3, 2));

    world.set_rooms(1, 1);
    world.apply(&spec(5)).await.unwrap();
    world.comes_to_rest().await;
    let after = world.pods().await;
    assert_eq!(placements(&after), ["open"; 5]);
    // The one that was empty may have gone meanwhile; who had rooms is who it was.
    for slot in [0, 2, 3, 4] {
        let name = names::node("c", slot);
        let uid = |pods: &[Pod]| pods.iter().find(|pod| pod.name_any() == name).unwrap().uid();
        assert_eq!(uid(&before), uid(&after), "{name}");
    }
    world.remove().await;
}

#[tokio::test]
async fn a_node_with_rooms_is_not_evicted_and_an_empty_one_is() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "evict").await;
    world.set_rooms(0, 1);
    world.apply(&spec(2)).await.unwrap();
    world.comes_to_rest().await;
    let pods = world.api::<Pod>();
    let evict = async |slot| pods.evict(&names::node("c", slot), &EvictParams::default()).await;
    // Until the controller has counted, evictions are refused for another reason.
    let start = Instant::now();
    loop {
        match evict(1).await {
            Ok(_) => break,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused = evict(0).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");
    world.remove().await;
}

/// Every object that the operator made but media pods.
fn children(found: &Objects) -> Vec<(ApiResource, String)> {
    let made = found
        .iter()
        .filter(|(name, _)| !name.starts_with("LiveCluster ") && !name.starts_with("Pod "));
    let child = |(name, object): (&String, &Value)| {
        let (_, name) = name.split_once(' ').unwrap();
        let text = |field: &str| object[field].as_str().unwrap().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let kind = kube::core::GroupVersionKind::gvk(group, version, &kind);
        (ApiResource::from_gvk(&kind), name.to_owned())
    };
    made.map(child).collect()
}

#[tokio::test]
async fn what_somebody_deletes_or_changes_is_made_as_it_was() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "meddling").await;
    let [install, ..] = steps();
    world.apply(&install.after).await.unwrap();
    let expected = world.comes_to_rest().await;
    let children = children(&expected);
    assert!(children.len() >= 12, "{children:?}");
    for (resource, name) in children {
        let api: Api<DynamicObject> =
            Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
        let labels = json!({"metadata": {"labels": {names::MANAGED_BY: "somebody"}}});
        let patch = Patch::Merge(&labels);
        api.patch(&name, &PatchParams::default(), &patch).await.unwrap();
        let differs = difference(&expected, &world.comes_to_rest().await);
        assert!(differs.is_empty(), "{} {name} changed: {differs:#?}", resource.kind);
        // Passwords and authorities are not made twice while pods hold them: what reads them is
        // replaced then, which is another matter.
        if resource.kind == "Secret" {
            continue;
        }
        let now = DeleteParams::background().grace_period(0);
        api.delete(&name, &now).await.unwrap();
        let differs = difference(&expected, &world.comes_to_rest().await);
        assert!(differs.is_empty(), "{} {name} deleted: {differs:#?}", resource.kind);
    }
    world.remove().await;
}

fn condition(found: &Objects, kind: &str) -> (String, String) {
    let conditions = found["LiveCluster c"]["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("reason"), text("message"))
}

#[tokio::test]
async fn a_secret_that_is_missing_is_named_and_found_when_it_comes() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "missing").await;
    let mut spec = spec(1);
    spec["keys"] = json!({"secretName": "mine"});
    world.apply(&spec).await.unwrap();
    // At rest: no look writes anything any more.
    let found = world.comes_to_rest().await;
    let (reason, message) = condition(&found, "Degraded");
    assert_eq!(reason, "SecretMissing");
    assert!(message.contains("mine") && message.contains("spec.keys.secretName"), "{message}");
    assert_eq!(found.keys().filter(|name| name.starts_with("Pod ")).count(), 0);
    let keys = json!({"metadata": {"name": "mine"},
        "stringData": {"keys.yaml": "devkey: a-secret-of-some-length-and-then-some\n"}});
    let keys: Secret = serde_json::from_value(keys).unwrap();
    world.api::<Secret>().create(&PostParams::default(), &keys).await.unwrap();
    let found = world.comes_to_rest().await;
    assert_eq!(condition(&found, "Degraded").0, "AsExpected");
    assert_eq!(found["LiveCluster c"]["status"]["readyNodes"], 1);
    world.remove().await;
}

#[tokio::test]
async fn pod_security_that_refuses_host_ports_is_told_until_it_is_lifted() {
    let Some(config) = plane::config().await else { return };
    let world = World::new(&config, "refused").await;
    let enforce = |level: &str| {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        Patch::Merge(json!({"metadata": {"labels": labels}}))
    };
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let label = async |level: &str| {
        let params = PatchParams::default();
        namespaces.patch(&world.namespace, &params, &enforce(level)).await.unwrap()
    };
    label("restricted").await;
    world.apply(&spec(2)).await.unwrap();
    let operator = world.operator(&Faults::none());
    for _ in 0..3 {
        world.look(&operator).await.unwrap();
    }
    let found = super::normal::objects(&world.client, &world.namespace).await;
    let (reason, message) = condition(&found, "Ready");
    assert_eq!(reason, "PodSecurityForbidsHostPorts", "{message}");
    assert_eq!(found["LiveCluster c"]["status"]["nodes"], 0);
    label("privileged").await;
    let found = world.comes_to_rest().await;
    assert_eq!(found["LiveCluster c"]["status"]["readyNodes"], 2);
    world.remove().await;
}

#[tokio::test]
async fn a_change_that_does_not_start_stops_and_its_correction_goes_on() {
    let Some(config) = plane::config().await else { return };
    let mut world = World::new(&config, "broken").await;
    let image = |image: &str| {
        let mut spec = spec(2);
        spec["node"] = json!({"image": image});
        spec
    };
    world.apply(&image("example.invalid/sfu:1")).await.unwrap();
    world.comes_to_rest().await;
    let before = world.pods().await;
    // Its pods never start.
    world.has_kubelet = false;
    world.apply(&image("example.invalid/sfu:broken")).await.unwrap();
    world.comes_to_rest().await;
    let stuck = world.pods().await;
    assert_eq!(stuck.len(), 3, "one beside the others");
    for pod in &before {
        let same = stuck.iter().find(|found| found.meta().uid == pod.meta().uid).unwrap();
        assert_eq!(same.labels()[names::PLACEMENT], names::OPEN);
    }
    world.has_kubelet = true;
    world.apply(&image("example.invalid/sfu:2")).await.unwrap();
    world.comes_to_rest().await;
    let after = world.pods().await;
    let images = after.iter().map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone());
    let expected = vec![Some("example.invalid/sfu:2".to_owned()); 2];
    assert_eq!(images.collect::<Vec<_>>(), expected);
    world.remove().await;
}
